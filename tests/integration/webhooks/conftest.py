"""A gateway that may deliver to this machine, a client at it, and receivers on real sockets."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.config import Config
from gateway.config_money import WebhooksConfig
from gateway.observability.logging import open_logger
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.services import admin
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.notified import (
    Client,
    OpenRuntime,
    connect,
)
from tests.support.receiver import Receiver


@pytest.fixture
def clock() -> FakeClock:
    """The time that it really is, since receivers want signatures to be fresh."""
    return FakeClock(SystemClock().now_ms())


@pytest.fixture
def open_again(
    config: Config, clock: FakeClock, upstream: FakeUpstream, log_stream: io.StringIO
) -> OpenRuntime:
    """Open what is in the data folder, as a start of the program does."""

    @asynccontextmanager
    async def open_again(**webhooks: Any) -> AsyncIterator[Runtime]:
        settings = {"allow_private": ("127.0.0.0/8",), "timeout_s": 5.0, **webhooks}
        async with open_runtime(
            config.model_copy(update={"webhooks": WebhooksConfig(**settings)}),
            environ={"FAKE_CREDENTIAL": "upstream-canary-credential"},
            clock=clock,
            log=open_logger("debug", "json", log_stream),
        ) as opened:
            ready = replace(opened, upstreams={"fake": upstream})
            await admin.ensure_default_project(ready)
            yield ready

    return open_again


@pytest.fixture
async def runtime(open_again: OpenRuntime) -> AsyncIterator[Runtime]:
    async with open_again() as opened:
        yield opened


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@pytest.fixture
async def sink() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@pytest.fixture
async def client(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> Client:
    return await connect(runtime, upstream, clock)
