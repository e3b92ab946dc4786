"""An adapter opened over a scripted upstream, and what it tells of its calls."""

import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from gateway.config import UpstreamConfig
from gateway.errors import GatewayError
from gateway.ports import Submission, Upstream
from gateway.upstreams.client import CallRecord, Operation, Outcome
from gateway.upstreams.registry import open_upstream
from tests.support.clock import FakeClock
from tests.support.raw_upstream import RawUpstream
from tests.support.requests import a_text, an_image, normalized

CANARY = "canary-8d1c3f0ab7"
TASK_ID = "cgt-20261122150102-q7w2x"
OTHER_ID = "cgt-20261122150102-aaaaa"
ATTEMPT_ID = "cgt-20261122070102-abcdefghij2345674567"
REQUEST_ID = "021795330862123456a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7"
REQUEST = normalized(a_text("Paper boats --dur 5"), an_image())
PATHS = {"ark": "/api/v3/contents/generations/tasks", "seedance": "/v1/seedance/generations"}
BASES = {"ark": "/api/v3", "seedance": "/v1"}
DIALECTS = pytest.mark.parametrize("dialect", ["ark", "seedance"])


@dataclass
class Opened:
    """An adapter, and what it told of its calls."""

    upstream: Upstream
    clock: FakeClock
    calls: list[CallRecord] = field(default_factory=list)

    def outcomes(self) -> list[tuple[Operation, Outcome]]:
        return [(call.operation, call.outcome) for call in self.calls]

    async def submit(self, draft_task_id: str | None = None) -> Submission:
        return await self.upstream.submit(
            "main", "ep-1", REQUEST, draft_task_id=draft_task_id, attempt_id=ATTEMPT_ID
        )


@asynccontextmanager
async def opened(dialect: str, peer: RawUpstream, **settings: object) -> AsyncIterator[Opened]:
    config = UpstreamConfig.model_validate(
        {
            "name": "one",
            "dialect": dialect,
            "base_url": f"http://127.0.0.1:{peer.port}{BASES[dialect]}",
            "credentials": [{"name": "main", "env": "UNUSED"}, {"name": "second", "env": "UNUSED"}],
            "answer_timeout_s": 20,
            "read_timeout_s": 20,
            **settings,
        }
    )
    clock = FakeClock()
    calls: list[CallRecord] = []
    upstream = open_upstream(
        config,
        {"main": SecretStr(CANARY), "second": SecretStr("another")},
        clock=clock,
        on_call=calls.append,
    )
    try:
        yield Opened(upstream, clock, calls)
    finally:
        await upstream.close()


def vendor_error(code: str, message: str = "No.", param: str = "") -> dict[str, object]:
    text = f"{message} Request id: {REQUEST_ID}"
    return {"error": {"code": code, "message": text, "param": param, "type": "BadRequest"}}


async def fault_of(opened_: Opened, call: str) -> GatewayError:
    upstream = opened_.upstream
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "submit": opened_.submit,
        "observe": lambda: upstream.observe("main", TASK_ID),
        "observe_many": lambda: upstream.observe_many("main", [TASK_ID]),
        "cancel": lambda: upstream.cancel("main", TASK_ID),
        "check": lambda: upstream.check("main"),
    }
    with pytest.raises(GatewayError) as caught:
        await calls[call]()
    told = "".join(traceback.format_exception(caught.value))
    for secret in (CANARY, REQUEST_ID, TASK_ID):
        assert secret not in told
    return caught.value
