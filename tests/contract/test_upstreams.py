"""The Upstream port, kept by each dialect over real connections to a scripted upstream."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr

from gateway.config import UpstreamConfig
from gateway.domain.tasks import Observation, TaskError
from gateway.errors import (
    GatewayError,
    RunningTaskDeletion,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ports import Submission, Upstream
from gateway.upstreams.client import CallRecord, Operation, Outcome
from gateway.upstreams.registry import open_upstream
from tests.support.clock import FakeClock
from tests.support.raw_upstream import (
    RawConnection,
    RawUpstream,
    Script,
    always,
    answer_bytes,
    json_answer,
)
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
            "answer_timeout_s": 2.0,
            "read_timeout_s": 2.0,
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


@DIALECTS
async def test_says_what_it_is_and_can(dialect: str) -> None:
    async with RawUpstream(always(b"")) as peer:
        async with opened(dialect, peer) as one:
            is_ark = dialect == "ark"
            assert (one.upstream.name, list(one.upstream.credentials)) == (
                "one",
                ["main", "second"],
            )
            assert (one.upstream.supports_list, one.upstream.supports_cancel) == (is_ark, is_ark)
        overrides: dict[str, object] = {"supports_list": True, "supports_cancel": False}
        async with opened(dialect, peer, **overrides) as one:
            assert (one.upstream.supports_list, one.upstream.supports_cancel) == (True, False)


# --- submit ---------------------------------------------------------------------------------------


@DIALECTS
async def test_a_submit_is_one_post_and_gives_the_upstreams_id(dialect: str) -> None:
    answer = json_answer(
        {"id": TASK_ID, "message": "Submit"}, headers=(f"X-Request-Id: {REQUEST_ID}",)
    )
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        assert await one.submit() == Submission(TASK_ID, REQUEST_ID)

        (request,) = peer.requests
        assert (request.method, request.target) == ("POST", PATHS[dialect])
        assert request.header("authorization") == f"Bearer {CANARY}"
        assert request.header("x-client-request-id") == ATTEMPT_ID
        fields, text = ({"duration": 5}, "Paper boats")
        if dialect == "seedance":
            fields, text = ({}, "Paper boats --duration 5")
        assert request.json() == {"model": "ep-1", "content": [a_text(text), an_image()], **fields}
        assert one.outcomes() == [(Operation.SUBMIT, Outcome.OK)]
        assert one.calls[0].upstream == "one"


@DIALECTS
async def test_a_submit_uses_the_credential_that_it_is_told(dialect: str) -> None:
    async with RawUpstream(always(json_answer({"id": TASK_ID}))) as peer:
        async with opened(dialect, peer) as one:
            await one.upstream.submit(
                "second", "ep-1", REQUEST, draft_task_id=None, attempt_id=ATTEMPT_ID
            )

        assert peer.requests[0].header("authorization") == "Bearer another"


async def hangs_up(connection: RawConnection) -> None:
    await connection.read_request()


REFUSALS: dict[str, tuple[bytes, type[GatewayError], Outcome]] = {
    "a wrong parameter": (
        json_answer(vendor_error("InvalidParameter", param="duration"), status=400),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "an unfit prompt": (
        json_answer(vendor_error("InputTextSensitiveContentDetected"), status=400),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "an unknown model": (
        json_answer(vendor_error("InvalidEndpointOrModel.NotFound"), status=404),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "too many requests": (
        json_answer(vendor_error("RateLimitExceeded.EndpointRPMExceeded"), status=429),
        UpstreamRejected,
        Outcome.RATE_LIMITED,
    ),
    "a bad credential": (
        json_answer(vendor_error("AuthenticationError"), status=401),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "an account in arrears": (
        json_answer(vendor_error("AccountOverdueError"), status=403),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "a spent cap": (
        json_answer(vendor_error("SetLimitExceeded"), status=429),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "a reseller's wrapping": (
        json_answer(
            {"code": "fail_to_fetch_task", "message": json.dumps(vendor_error("InvalidParameter"))},
            status=400,
        ),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "a page of a front proxy": (
        answer_bytes(b"<html>Forbidden</html>", status=403, content_type="text/html"),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a redirect": (
        answer_bytes(b"", status=302, headers=("Location: http://127.0.0.1:1/",)),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a conflict": (
        json_answer(vendor_error("Conflict"), status=409),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a server error": (
        json_answer(vendor_error("InternalServiceError"), status=500),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a bad gateway": (
        answer_bytes(b"Bad Gateway", status=502),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "success without an id": (json_answer({}), UpstreamAmbiguous, Outcome.AMBIGUOUS),
    "an error in a success": (
        json_answer({"code": "fail_to_fetch_task", "message": "x", "data": None}),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "junk": (b"\x00\x01\r\n\r\n", UpstreamAmbiguous, Outcome.AMBIGUOUS),
}


@DIALECTS
@pytest.mark.parametrize("case", REFUSALS)
async def test_a_submit_that_fails_is_told_by_its_class_and_not_repeated(
    dialect: str, case: str
) -> None:
    answer, expected, outcome = REFUSALS[case]
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

        assert type(fault) is expected
        assert one.outcomes() == [(Operation.SUBMIT, outcome)]
        assert (peer.connection_count, len(peer.requests)) == (1, 1)


@DIALECTS
async def test_a_rejection_is_told_in_the_upstreams_words(dialect: str) -> None:
    value = vendor_error("InvalidParameter", f"duration of {TASK_ID} is not valid.", "duration")
    answer = json_answer(value, status=400)
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

    assert (fault.public_status, fault.public_code, fault.public_type, fault.param) == (
        400,
        "InvalidParameter",
        "BadRequest",
        "duration",
    )
    assert fault.message == "duration of [id] is not valid."


@DIALECTS
async def test_429_keeps_its_retry_after(dialect: str) -> None:
    answer = json_answer(vendor_error("ServerOverloaded"), status=429, headers=("Retry-After: 11",))
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

    assert (fault.public_status, fault.retry_after_s) == (429, 11)


@DIALECTS
async def test_a_server_error_is_definite_where_that_is_configured(dialect: str) -> None:
    answer = json_answer(vendor_error("InternalServiceError"), status=500)
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer, definite_5xx=True) as one:
        fault = await fault_of(one, "submit")

    assert type(fault) is UpstreamRejected
    assert fault.public_status == 500


@DIALECTS
async def test_a_cancelled_submit_is_recorded(dialect: str) -> None:
    async def keeps_silent(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()

    async with (
        RawUpstream(keeps_silent) as peer,
        opened(dialect, peer, answer_timeout_s=60) as one,
        asyncio.TaskGroup() as group,
    ):
        call = group.create_task(one.submit())
        await peer.wait_for_requests(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert one.outcomes() == [(Operation.SUBMIT, Outcome.ABANDONED)]


# --- observe --------------------------------------------------------------------------------------

RUNNING = {"id": TASK_ID, "status": "running", "model": "m", "created_at": 1, "updated_at": 2}
FAILED = {
    "id": TASK_ID,
    "status": "failed",
    "error": {"code": "OutputVideoSensitiveContentDetected", "message": f"Unfit: {TASK_ID}"},
}
NO_NEWS = Observation("", {})


@DIALECTS
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (json_answer(RUNNING), Observation("running", {})),
        (
            json_answer(FAILED),
            Observation(
                "failed", {}, TaskError("OutputVideoSensitiveContentDetected", "Unfit: [id]")
            ),
        ),
        (json_answer({**RUNNING, "status": "preparing"}), Observation("preparing", {})),
        (json_answer({"status": "running"}), Observation("running", {})),
        (json_answer({**FAILED, "id": OTHER_ID}), NO_NEWS),
        (json_answer({}), NO_NEWS),
        (json_answer([]), NO_NEWS),
        (json_answer(None), NO_NEWS),
        (json_answer("failed"), NO_NEWS),
        (json_answer(vendor_error("NotFound.Task"), status=404), None),
        (json_answer({"code": "task_not_exist", "message": "task_not_exist"}, status=400), None),
    ],
)
async def test_an_observation_is_what_the_upstream_shows(
    dialect: str, answer: bytes, expected: Observation | None
) -> None:
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        assert await one.upstream.observe("main", TASK_ID) == expected

        assert [(r.method, r.target) for r in peer.requests] == [
            ("GET", f"{PATHS[dialect]}/{TASK_ID}")
        ]
        assert one.outcomes() == [(Operation.GET, Outcome.OK)]


async def test_a_resellers_envelope_is_opened() -> None:
    answer = json_answer(
        {
            "code": "success",
            "data": {"task_id": TASK_ID, "status": "IN_PROGRESS", "progress": "30%"},
        }
    )
    async with RawUpstream(always(answer)) as peer, opened("seedance", peer) as one:
        assert await one.upstream.observe("main", TASK_ID) == Observation(
            "running", {"progress": "30%"}
        )


BROKEN_READS: dict[str, tuple[Script, type[GatewayError], Outcome]] = {
    "hangs up": (hangs_up, UpstreamUnavailable, Outcome.UNAVAILABLE),
    "no json": (always(answer_bytes(b"<html>")), UpstreamUnavailable, Outcome.UNAVAILABLE),
    "nested without end": (
        always(answer_bytes(b"[" * 100_000)),
        UpstreamUnavailable,
        Outcome.UNAVAILABLE,
    ),
    "an error in a success": (
        always(json_answer(vendor_error("InternalServiceError"))),
        UpstreamUnavailable,
        Outcome.UNAVAILABLE,
    ),
    "a lost path": (
        always(answer_bytes(b"404 page not found", status=404)),
        UpstreamUnavailable,
        Outcome.UNAVAILABLE,
    ),
    "a server error": (
        always(json_answer(vendor_error("InternalServiceError"), status=500)),
        UpstreamUnavailable,
        Outcome.UNAVAILABLE,
    ),
    "a gateway time-out": (
        always(answer_bytes(b"", status=504)),
        UpstreamTimeout,
        Outcome.TIMEOUT,
    ),
    "too many requests": (
        always(json_answer(vendor_error("APIAccountRpmRateLimitExceeded"), status=429)),
        UpstreamRejected,
        Outcome.RATE_LIMITED,
    ),
    "a bad credential": (
        always(json_answer(vendor_error("AuthenticationError"), status=401)),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
}


UNREADABLE = {"no json", "nested without end", "an error in a success"}


@DIALECTS
@pytest.mark.parametrize(
    ("call", "case"),
    [
        (call, case)
        for call in ("observe", "observe_many", "cancel", "check")
        for case in BROKEN_READS
        # The body of a successful cancel says nothing.
        if call != "cancel" or case not in UNREADABLE
    ],
)
async def test_a_read_that_fails_is_told_by_its_class(dialect: str, call: str, case: str) -> None:
    script, expected, outcome = BROKEN_READS[case]
    async with RawUpstream(script) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, call)

        assert type(fault) is expected
        assert [call.outcome for call in one.calls] == [outcome]
        assert len(peer.requests) == 1


# --- observe_many ---------------------------------------------------------------------------------


@DIALECTS
async def test_many_tasks_are_read_by_one_list(dialect: str) -> None:
    listed = {
        "total": 5,
        "items": [RUNNING, {**FAILED, "id": OTHER_ID}, None, {"status": "running"}, {"id": "x"}],
    }
    async with RawUpstream(always(json_answer(listed))) as peer, opened(dialect, peer) as one:
        seen = await one.upstream.observe_many("main", [TASK_ID, "cgt-absent-1"])

        assert seen == {TASK_ID: Observation("running", {})}
        (request,) = peer.requests
        assert (request.method, request.path) == ("GET", PATHS[dialect])
        assert request.query == {
            "page_num": ["1"],
            "page_size": ["2"],
            "filter.task_ids": [TASK_ID, "cgt-absent-1"],
        }
        assert one.outcomes() == [(Operation.LIST, Outcome.OK)]


async def test_one_list_covers_500_tasks_and_not_more() -> None:
    ids = [f"cgt-20261122150102-{number:05}" for number in range(501)]
    items = [{"id": task_id, "status": "running"} for task_id in ids[:500]]
    async with (
        RawUpstream(always(json_answer({"total": 500, "items": items}))) as peer,
        opened("ark", peer) as one,
    ):
        assert len(await one.upstream.observe_many("main", ids[:500])) == 500
        for wrong in ([], ids):
            with pytest.raises(ValueError, match="1 to 500"):
                await one.upstream.observe_many("main", wrong)

        assert len(peer.requests) == 1


async def test_a_list_of_another_shape_is_a_fault_and_no_proof_of_absence() -> None:
    async with (
        RawUpstream(always(json_answer({"total": 0, "items": None}))) as peer,
        opened("ark", peer) as one,
    ):
        assert type(await fault_of(one, "observe_many")) is UpstreamUnavailable


# --- cancel ---------------------------------------------------------------------------------------


@DIALECTS
@pytest.mark.parametrize("answer", [json_answer({}), answer_bytes(b"", status=204)])
async def test_a_cancel_is_one_delete(dialect: str, answer: bytes) -> None:
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        await one.upstream.cancel("main", TASK_ID)

        (request,) = peer.requests
        assert (request.method, request.target, request.body) == (
            "DELETE",
            f"{PATHS[dialect]}/{TASK_ID}",
            b"",
        )
        assert one.outcomes() == [(Operation.CANCEL, Outcome.OK)]


@DIALECTS
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (409, "InvalidAction.RunningTaskDeletion", RunningTaskDeletion),
        (409, "InvalidAction.Other", UpstreamRejected),
        (404, "NotFound.Task", TaskNotFound),
        (400, "InvalidParameter", UpstreamRejected),
    ],
)
async def test_a_refused_cancel_says_why(
    dialect: str, status: int, code: str, expected: type[GatewayError]
) -> None:
    answer = json_answer(vendor_error(code, f"task {TASK_ID}"), status=status)
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "cancel")

        assert type(fault) is expected
        assert one.outcomes() == [(Operation.CANCEL, Outcome.REJECTED)]


# --- check ----------------------------------------------------------------------------------------


async def test_a_credential_is_proved_by_one_free_list() -> None:
    async with (
        RawUpstream(always(json_answer({"total": 0, "items": []}))) as peer,
        opened("ark", peer) as one,
    ):
        await one.upstream.check("main")

        assert [(r.method, r.path, r.query) for r in peer.requests] == [
            ("GET", PATHS["ark"], {"page_num": ["1"], "page_size": ["1"]})
        ]


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(vendor_error("NotFound.Task"), status=404),
        json_answer(vendor_error("InvalidParameter"), status=400),
        json_answer({"code": "task_not_exist", "message": "x"}, status=400),
        json_answer({"status": "queued"}),
    ],
)
async def test_without_a_list_a_credential_is_proved_by_a_task_that_cannot_be(
    answer: bytes,
) -> None:
    async with RawUpstream(always(answer)) as peer, opened("seedance", peer) as one:
        await one.upstream.check("main")

        (request,) = peer.requests
        assert request.method == "GET"
        assert request.path == f"{PATHS['seedance']}/cgt-19700101000000-00000"


# --- budgets --------------------------------------------------------------------------------------


async def test_reads_keep_to_the_budget_of_their_credential() -> None:
    answer = json_answer({**RUNNING, "items": []})
    async with RawUpstream(always(answer)) as peer, opened("ark", peer) as one:
        for _ in range(3):
            await one.upstream.observe_many("main", [TASK_ID])
        assert sum(one.clock.slept_s) == pytest.approx(2.1, abs=0.01)

        one.clock.slept_s.clear()
        for _ in range(10):
            await one.upstream.observe("main", TASK_ID)
            await one.upstream.cancel("main", TASK_ID)
        assert sum(one.clock.slept_s) == pytest.approx(19 * 1.05 / 20, abs=0.05)

        one.clock.slept_s.clear()
        await one.upstream.observe_many("second", [TASK_ID])
        await one.upstream.observe("second", TASK_ID)
        await one.submit()
        assert one.clock.slept_s == []
