"""A real runtime on a real database; clock, randomness and the upstream are the test's."""

import io
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.domain.keys import Principal
from gateway.observability.logging import open_logger
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.services import admin
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def upstream() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
def log_stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    fake = UpstreamConfig(
        name="fake",
        base_url="http://127.0.0.1:9/api/v3",
        credentials=(CredentialConfig(env="FAKE_CREDENTIAL"),),
        models={"house-model": "ep-20261122-house"},
    )
    return Config(
        data_dir=tmp_path / "data",
        upstreams=(fake,),
        models={"endpoints": {"ep-20261122-house": "seedance-1-0-pro"}},
    )


@pytest.fixture
async def runtime(
    config: Config, clock: FakeClock, upstream: FakeUpstream, log_stream: io.StringIO
) -> AsyncIterator[Runtime]:
    source = random.Random(20261122)
    async with open_runtime(
        config,
        environ={"FAKE_CREDENTIAL": "upstream-canary-credential"},
        clock=clock,
        entropy=source.randbytes,
        spread=random.Random(5),
        log=open_logger("debug", "json", log_stream),
    ) as opened:
        ready = replace(opened, upstreams={"fake": upstream})
        await admin.ensure_default_project(ready)
        yield ready


@pytest.fixture
async def principal(runtime: Runtime) -> Principal:
    created = await admin.create_key(runtime, "test", "default")
    return Principal(created.project.id, created.record.id)


@pytest.fixture
async def stranger(runtime: Runtime) -> Principal:
    """Somebody of another project."""
    await admin.create_project(runtime, "test", "other")
    created = await admin.create_key(runtime, "test", "other")
    return Principal(created.project.id, created.record.id)
