"""The Upstream port, reads and cancels: each dialect over real connections."""

import pytest

from gateway.domain.tasks import Observation, TaskError
from gateway.errors import (
    GatewayError,
    RunningTaskDeletion,
    TaskNotFound,
    UpstreamAccount,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.client import Operation, Outcome
from tests.support.adapters import (
    DIALECTS,
    OTHER_ID,
    PATHS,
    TASK_ID,
    fault_of,
    opened,
    vendor_error,
)
from tests.support.raw_upstream import RawUpstream, Script, always, answer_bytes, json_answer
from tests.support.wire import closes_after_reading_all

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


@DIALECTS
@pytest.mark.parametrize(
    ("asked", "answered", "is_news"),
    [
        ("12345", 12345, True),
        ("12345", 12346, False),
        ("12345", TASK_ID, False),
        # The number of a row, beside ids of another shape, is no other task's id.
        (TASK_ID, 17, True),
    ],
)
async def test_a_number_tells_which_task_an_answer_is_about(
    dialect: str, asked: str, answered: object, *, is_news: bool
) -> None:
    answer = json_answer({"id": answered, "status": "running", "novel": f"of {asked}"})
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        expected = Observation("running", {}) if is_news else NO_NEWS
        assert await one.upstream.observe("main", asked) == expected


async def test_tasks_with_numbers_for_ids_are_found_in_a_list() -> None:
    listed = {"total": 1, "items": [{"id": 12345, "status": "running"}]}
    async with RawUpstream(always(json_answer(listed))) as peer, opened("ark", peer) as one:
        seen = await one.upstream.observe_many("main", ["12345"])

    assert seen == {"12345": Observation("running", {})}


BROKEN_READS: dict[str, tuple[Script, type[GatewayError], Outcome]] = {
    "hangs up": (closes_after_reading_all, UpstreamUnavailable, Outcome.UNAVAILABLE),
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
