import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from gateway.sandbox.server import run_sandbox
from gateway.sandbox.settings import SandboxLimits, SandboxSettings
from tests.sandbox.support import Upstream

NO_RATES = SandboxLimits(rpm=None, rpm_4k=None, get_per_s=None, list_per_s=None, delete_per_s=None)
NO_LIMITS = SandboxLimits(None, None, None, None, None, None, None, None)

Opener = Callable[..., AbstractAsyncContextManager[Upstream]]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[SandboxSettings]:
    """Settings without rates and without waiting for media; the clock is moved by the tests.

    The state lies in memory where that is possible: these tests are not about the disk, and on a
    busy machine waiting for it takes longer than everything else.
    """
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield SandboxSettings(data_dir=Path(folder), limits=NO_RATES, media_fetch_s=0.0)


@pytest.fixture
def open_upstream(settings: SandboxSettings) -> Opener:
    """Return a function that runs a sandbox with some settings changed."""

    @asynccontextmanager
    async def opened(key: str = "sk-test", **changes: object) -> AsyncIterator[Upstream]:
        changed = replace(settings, **changes)  # type: ignore[arg-type]  # names of fields
        async with run_sandbox(changed) as sandbox:
            headers = {"authorization": f"Bearer {key}"}
            # An empty context, for there is no TLS here and loading authorities takes longest.
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            async with httpx.AsyncClient(
                base_url=sandbox.url, headers=headers, trust_env=False, timeout=10, verify=tls
            ) as http:
                yield Upstream(sandbox.url, http)

    return opened


@pytest.fixture
async def upstream(open_upstream: Opener) -> AsyncIterator[Upstream]:
    async with open_upstream() as opened:
        yield opened
