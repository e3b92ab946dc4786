"""A gateway that listens, and a client of it with a good key."""

from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.app import create_app
from gateway.http.middleware import RequestMiddleware
from gateway.ports import Runtime
from gateway.services import admin
from tests.support.gateway_client import Keys
from tests.support.listening import SERVERS, listening


@pytest.fixture
async def keys(runtime: Runtime) -> Keys:
    await admin.create_project(runtime, "test", "other")
    owner = await admin.create_key(runtime, "test", "default")
    stranger = await admin.create_key(runtime, "test", "other")
    revoked = await admin.create_key(runtime, "test", "default")
    await admin.revoke_key(runtime, "test", revoked.record.id)
    return Keys(owner.key, stranger.key, revoked.key)


@pytest.fixture
def app(runtime: Runtime) -> RequestMiddleware:
    return create_app(runtime)


@pytest.fixture
async def port(app: RequestMiddleware, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with listening(app, getattr(request, "param", SERVERS[0])) as number:
        yield number


@pytest.fixture
async def client(port: int, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {keys.owner}"},
        trust_env=False,
    ) as opened:
        yield opened
