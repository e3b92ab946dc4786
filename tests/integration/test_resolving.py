"""How an unknown submission ends that no list explains: by its age, or by an operator."""

import io
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, TaskState
from gateway.errors import InvalidRequest, TaskNotFound, UpstreamUnavailable
from gateway.ports import Runtime
from gateway.services.observing import observe_due
from gateway.services.reconciling import reconcile_due
from gateway.services.resolving import Decision, Verdict, resolve
from gateway.storage import audit, callbacks, ledger, orphans
from gateway.storage.orphans import StoredOrphan
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import (
    SUCCESS,
    a_stranger,
    accept,
    events_in,
    evidence_of,
    find_task,
    lose,
    losses_of,
    orphans_of,
    pass_time,
    state_of,
    tuned,
)

DAY_S = 86_400.0
WHY = "asked the vendor"


@pytest.fixture(autouse=True)
def _dated(upstream: FakeUpstream, clock: FakeClock) -> None:
    upstream.now_ms = clock.now_ms


async def vanish(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> str:
    """Have the upstream deny a task that it accepted until that fails; return its id."""
    task = await accept(runtime, principal)
    del upstream.shown[task.upstream_task_id or ""]
    upstream.listed.clear()
    for _ in range(30):
        clock.advance(60)
        await observe_due(runtime, upstream, "default")
    assert await state_of(runtime, task.id) is TaskState.FAILED
    assert await evidence_of(runtime, task.id) is None
    return task.id


@pytest.mark.parametrize(
    ("policy", "end"),
    [
        ("hold", None),
        ("release", (EntryKind.RELEASE, EvidenceKind.POLICY)),
        ("charge", (EntryKind.SETTLE, EvidenceKind.POLICY)),
    ],
)
async def test_without_a_list_a_submission_ends_by_its_age_as_it_is_configured(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
    policy: str,
    end: tuple[EntryKind, EvidenceKind] | None,
) -> None:
    runtime = tuned(runtime, submit={"unknown_policy": policy})
    upstream.supports_list = False
    task_id = await lose(runtime, principal, upstream, is_made=False)

    clock.advance(7 * DAY_S - 60)
    await reconcile_due(runtime, upstream, "default")
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    clock.advance(60)
    await reconcile_due(runtime, upstream, "default")

    task = await find_task(runtime, task_id)
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert task.error.code == "SubmissionOutcomeUnknown"
    assert await evidence_of(runtime, task_id) == end
    assert (task.bill is not None) == (policy == "charge")
    assert not upstream.pages
    (event,) = events_in(log_stream, "task.unknown_ended")
    assert (event["policy"], event["level"]) == (policy, "error")


async def test_a_date_that_is_set_past_the_age_ends_no_submission(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, submit={"unknown_policy": "release"})
    upstream.supports_list = False
    task_id = await lose(runtime, principal, upstream, is_made=False)
    clock.advance(7200)

    clock.set_date(8 * DAY_S)  # for a moment
    await reconcile_due(runtime, upstream, "default")
    clock.set_date(-8 * DAY_S)
    clock.advance(3601)
    await reconcile_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    assert await evidence_of(runtime, task_id) is None
    clock.set_date(8 * DAY_S)  # and now for good
    await reconcile_due(runtime, upstream, "default")
    clock.advance(3599)
    await reconcile_due(runtime, upstream, "default")
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_a_list_that_never_answers_ends_by_age_too(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.list_error = UpstreamUnavailable("No answer.")

    clock.advance(7 * DAY_S)
    await reconcile_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.FAILED
    assert await evidence_of(runtime, task_id) is None


async def test_an_operator_finds_a_lost_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.supports_list = False
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = SUCCESS

    report = await resolve(
        runtime, "cli:jo", task_id, Decision(Verdict.FOUND, "up-1", "seen in the console")
    )

    assert (report.task.state, report.task.upstream_task_id) == (TaskState.SUCCEEDED, "up-1")
    assert upstream.gets == ["up-1"]
    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.ENDED)
    (event,) = await runtime.db.read(audit.list_events, 0, 1)
    assert (event.actor, event.action, event.subject) == (
        "cli:jo",
        "task.resolve_requested",
        task_id,
    )
    assert event.detail == "found up-1: seen in the console"


async def test_an_operator_says_that_a_task_was_never_made(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)

    report = await resolve(
        runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason="asked them")
    )

    assert report.task.state is TaskState.FAILED
    assert report.task.error is not None
    assert report.task.error.code == "SubmissionNotConfirmed"
    entries = await runtime.db.read(ledger.list_entries, task_id)
    assert entries[-1].kind is EntryKind.RELEASE
    assert entries[-1].evidence is not None
    assert entries[-1].evidence.detail == "cli:jo said absent: asked them"


async def test_an_operator_has_a_task_charged(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)

    report = await resolve(runtime, "cli:jo", task_id, Decision(Verdict.CHARGE, reason="billed"))

    assert report.task.state is TaskState.FAILED
    assert report.task.bill is not None
    assert report.cost_micros is not None
    assert report.cost_micros > 0
    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.OPERATOR)


@pytest.mark.parametrize("verdict", [Verdict.ABSENT, Verdict.CHARGE])
async def test_the_hold_of_a_vanished_task_ends_once(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    verdict: Verdict,
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)

    await resolve(runtime, "cli:jo", task_id, Decision(verdict, reason=WHY))

    kind = EntryKind.SETTLE if verdict is Verdict.CHARGE else EntryKind.RELEASE
    assert await evidence_of(runtime, task_id) == (kind, EvidenceKind.OPERATOR)
    with pytest.raises(InvalidRequest, match="nothing to decide"):
        await resolve(runtime, "cli:jo", task_id, Decision(verdict, reason=WHY))


async def test_an_ended_task_is_not_reopened_by_finding_another(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)

    with pytest.raises(InvalidRequest, match="nothing reopens it"):
        await resolve(runtime, "cli:jo", task_id, Decision(Verdict.FOUND, "up-1"))


async def test_what_explains_itself_is_not_resolved(runtime: Runtime, principal: Principal) -> None:
    task = await accept(runtime, principal)

    with pytest.raises(InvalidRequest, match="is queued"):
        await resolve(runtime, "cli:jo", task.id, Decision(Verdict.ABSENT, reason=WHY))
    with pytest.raises(TaskNotFound):
        await resolve(
            runtime, "cli:jo", "cgt-20261122000000-zzzz", Decision(Verdict.ABSENT, reason=WHY)
        )


async def test_an_id_that_another_task_has_is_refused(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    theirs = await accept(runtime, stranger)
    mine = await lose(runtime, principal, upstream, is_made=False)

    with pytest.raises(InvalidRequest, match="another task has it"):
        await resolve(runtime, "cli:jo", mine, Decision(Verdict.FOUND, theirs.upstream_task_id))

    assert await state_of(runtime, mine) is TaskState.UNKNOWN


async def test_an_id_that_carries_another_projects_marker_is_refused(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    mine = await lose(runtime, principal, upstream, is_made=False)
    theirs = await lose(runtime, stranger, upstream)

    with pytest.raises(InvalidRequest, match=f"the marker of {theirs}"):
        await resolve(runtime, "cli:jo", mine, Decision(Verdict.FOUND, "up-2"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"resolution": "1080p"}, "another shape"), ({"created_at_ms": 1}, "another time")],
)
async def test_an_id_of_another_shape_or_time_is_refused(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    fields: dict[str, object],
    words: str,
) -> None:
    mine = await lose(runtime, principal, upstream)
    upstream.listed[0] = replace(upstream.listed[0], **fields)  # type: ignore[arg-type]

    with pytest.raises(InvalidRequest, match=words):
        await resolve(runtime, "cli:jo", mine, Decision(Verdict.FOUND, "up-1"))


async def test_an_operator_insists_against_the_shape_with_a_reason(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    mine = await lose(runtime, principal, upstream)
    upstream.listed[0] = replace(upstream.listed[0], model="renamed-by-the-upstream")
    forced = Decision(Verdict.FOUND, "up-1", "renamed in June", is_forced=True)

    with pytest.raises(InvalidRequest, match="--force"):
        await resolve(runtime, "cli:jo", mine, replace(forced, is_forced=False))
    with pytest.raises(InvalidRequest, match="needs a reason"):
        await resolve(runtime, "cli:jo", mine, replace(forced, reason=" "))
    await resolve(runtime, "cli:jo", mine, forced)

    assert await state_of(runtime, mine) is TaskState.QUEUED
    events = await runtime.db.read(audit.list_events, 0, 100)
    assert "found up-1 by force: renamed in June" in [event.detail for event in events]


async def test_nobody_insists_on_what_carries_anothers_marker_or_is_anothers(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    mine = await lose(runtime, principal, upstream, is_made=False)
    await lose(runtime, stranger, upstream)
    taken = await accept(runtime, stranger)
    assert taken.upstream_task_id is not None

    for upstream_task_id, words in (("up-2", "marker"), (taken.upstream_task_id, "another task")):
        forced = Decision(Verdict.FOUND, upstream_task_id, "I know", is_forced=True)
        with pytest.raises(InvalidRequest, match=words):
            await resolve(runtime, "cli:jo", mine, forced)


async def test_an_id_that_the_upstream_does_not_show_is_refused(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    mine = await lose(runtime, principal, upstream, is_made=False)

    with pytest.raises(InvalidRequest, match="shows no task up-77"):
        await resolve(runtime, "cli:jo", mine, Decision(Verdict.FOUND, "up-77"))
    upstream.read_error = UpstreamUnavailable("No answer.")
    with pytest.raises(UpstreamUnavailable):
        await resolve(runtime, "cli:jo", mine, Decision(Verdict.FOUND, "up-77"))

    assert await state_of(runtime, mine) is TaskState.UNKNOWN


async def test_an_orphan_is_given_to_the_task_that_an_operator_names_unless_it_has_one(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    first = await lose(runtime, principal, upstream, is_made=False)
    await resolve(runtime, "cli:jo", first, Decision(Verdict.ABSENT, reason=WHY))
    second = await lose(runtime, principal, upstream, is_made=False)
    upstream.echoes = False
    upstream.make(upstream.submits[-1], "up-owned")
    upstream.make(upstream.submits[-1], "up-free")
    for upstream_task_id, task_id in (("up-owned", first), ("up-free", None)):
        row = StoredOrphan("fake", "default", upstream_task_id, clock.now, "queued", None, task_id)
        await runtime.db.write(orphans.record, row)

    with pytest.raises(InvalidRequest, match="came of another task"):
        await resolve(runtime, "cli:jo", second, Decision(Verdict.FOUND, "up-owned"))
    report = await resolve(runtime, "cli:jo", second, Decision(Verdict.FOUND, "up-free"))

    assert report.task.upstream_task_id == "up-free"
    assert [each.upstream_task_id for each in await orphans_of(runtime)] == ["up-owned"]


async def test_a_late_orphan_is_no_loss_while_its_hold_waits_or_was_charged(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, submit={"unknown_age_max_s": 3600.0})
    held = await lose(runtime, principal, upstream, is_made=False)
    charged = await lose(runtime, principal, upstream, is_made=False)
    await resolve(runtime, "cli:jo", charged, Decision(Verdict.CHARGE, reason=WHY))
    await pass_time(runtime, upstream, clock, 3700)
    assert await state_of(runtime, held) is TaskState.FAILED
    for number, submitted in enumerate(upstream.submits):
        upstream.make(submitted, f"up-late-{number}")
    upstream.shown["up-late-1"] = SUCCESS

    await pass_time(runtime, upstream, clock, 3700)
    assert len(await orphans_of(runtime)) == 2
    assert [await losses_of(runtime, each) for each in (held, charged)] == [[], []]
    with pytest.raises(InvalidRequest, match=r"as up-late-0: --charge charges .*--absent --force"):
        await resolve(runtime, "cli:jo", held, Decision(Verdict.ABSENT, reason=WHY))
    await resolve(runtime, "cli:jo", held, Decision(Verdict.ABSENT, reason=WHY, is_forced=True))
    upstream.shown["up-late-0"] = SUCCESS
    await pass_time(runtime, upstream, clock, 3700)

    assert len(await losses_of(runtime, held)) == 1
    assert await losses_of(runtime, charged) == []


async def test_the_reason_is_bounded(runtime: Runtime, principal: Principal) -> None:
    task = await accept(runtime, principal)

    with pytest.raises(InvalidRequest, match="has 501 characters, of 500 at most"):
        await resolve(runtime, "cli:jo", task.id, Decision(Verdict.ABSENT, reason="x" * 501))


async def test_what_was_running_when_it_was_found_is_followed(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = Observation("running", {})
    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.FOUND, "up-1"))
    assert await state_of(runtime, task_id) is TaskState.RUNNING

    upstream.shown["up-1"] = SUCCESS
    clock.advance(120)
    await observe_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.SUCCEEDED


@pytest.mark.parametrize("verdict", [Verdict.ABSENT, Verdict.CHARGE])
@pytest.mark.parametrize("reason", ["", " \n"])
async def test_what_an_operator_decides_without_the_upstream_needs_a_reason(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, verdict: Verdict, reason: str
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)

    with pytest.raises(InvalidRequest, match="needs a reason, 1 to 500 characters"):
        await resolve(runtime, "cli:jo", task_id, Decision(verdict, reason=reason))

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    assert await evidence_of(runtime, task_id) is None


@pytest.mark.parametrize("verdict", [Verdict.ABSENT, Verdict.CHARGE])
@pytest.mark.parametrize("is_forced", [False, True])
async def test_no_word_ends_a_submission_whose_marker_the_upstream_shows(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    verdict: Verdict,
    is_forced: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    task_id = await lose(runtime, principal, upstream)
    decision = Decision(verdict, reason=WHY, is_forced=is_forced)

    with pytest.raises(InvalidRequest, match=f"has the task {task_id}, as up-1: --found up-1"):
        await resolve(runtime, "cli:jo", task_id, decision)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    assert await evidence_of(runtime, task_id) is None
    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.FOUND, "up-1"))
    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_the_task_of_another_is_no_sign_of_a_submission(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    await accept(runtime, stranger)
    await lose(runtime, stranger, upstream)
    task_id = await lose(runtime, principal, upstream, is_made=False)

    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason=WHY))

    task = await find_task(runtime, task_id)
    assert task.error is not None
    assert "safe to submit again" in task.error.message


async def test_the_list_is_read_once_and_no_further_than_the_submission(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, reconciler={"page_size": 2})
    for _ in range(9):
        await accept(runtime, principal)
        clock.advance(600)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    upstream.pages.clear()

    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason=WHY))

    assert [page for _, page, _ in upstream.pages] == [1, 2]


async def without_list(runtime: Runtime, upstream: FakeUpstream, task_id: str) -> Runtime:
    del task_id
    upstream.supports_list = False
    return runtime


async def away(runtime: Runtime, upstream: FakeUpstream, task_id: str) -> Runtime:
    del task_id
    upstream.list_error = UpstreamUnavailable("No answer.")
    return runtime


async def unconfigured(runtime: Runtime, upstream: FakeUpstream, task_id: str) -> Runtime:
    del upstream, task_id
    return replace(runtime, upstreams={})


async def endless(runtime: Runtime, upstream: FakeUpstream, task_id: str) -> Runtime:
    del task_id
    for number in range(9):
        upstream.listed.insert(0, a_stranger(number, runtime.clock.now_ms()))
    return tuned(runtime, reconciler={"page_size": 2, "pages_max": 2})


async def called_back(runtime: Runtime, upstream: FakeUpstream, task_id: str) -> Runtime:
    del upstream
    now_ms = runtime.clock.now_ms()
    await runtime.db.write(callbacks.note_call, task_id, now_ms, "up-claimed")
    return runtime


@pytest.mark.parametrize(
    ("hinder", "why"),
    [
        (without_list, "the upstream has no list"),
        (away, "No answer"),
        (unconfigured, "is no longer configured"),
        (endless, "could not be read whole"),
        (called_back, "its callback address was called for up-claimed"),
    ],
)
async def test_where_nobody_can_look_absence_takes_force_and_promises_less(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    hinder: Callable[[Runtime, FakeUpstream, str], Awaitable[Runtime]],
    why: str,
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)
    hindered = await hinder(runtime, upstream, task_id)
    decision = Decision(Verdict.ABSENT, reason=WHY)

    with pytest.raises(InvalidRequest, match=f"can't be seen: .*{why}.*--force"):
        await resolve(hindered, "cli:jo", task_id, decision)
    assert await evidence_of(runtime, task_id) is None
    await resolve(hindered, "cli:jo", task_id, replace(decision, is_forced=True))

    task = await find_task(runtime, task_id)
    assert task.error is not None
    assert task.error.code == "SubmissionNotConfirmed"
    assert "safe" not in task.error.message
    entry = (await runtime.db.read(ledger.list_entries, task_id))[-1]
    assert entry.evidence is not None
    assert entry.evidence.detail == f"cli:jo said absent by force: {WHY}"


async def test_where_nobody_can_look_a_task_is_charged_all_the_same(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.list_error = UpstreamUnavailable("No answer.")

    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.CHARGE, reason=WHY))

    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.OPERATOR)


async def test_a_submission_that_lists_no_longer_reach_is_not_said_absent_by_them(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)
    clock.advance(7 * DAY_S)

    with pytest.raises(InvalidRequest, match="lists go back 7 days, and it is older"):
        await resolve(runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason=WHY))


async def test_a_submission_without_a_marker_is_not_said_absent_by_a_list(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    runtime = tuned(runtime, markers={"seed": False})
    task_id = await lose(runtime, principal, upstream, is_made=False)

    with pytest.raises(InvalidRequest, match="the submission carried no marker"):
        await resolve(runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason=WHY))


@pytest.mark.parametrize("shows", ["shown", "shown_in_list"])
async def test_the_hold_of_a_vanished_task_that_is_there_again_is_not_let_go_unless_forced(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    shows: str,
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)
    upstream_task_id = (await find_task(runtime, task_id)).upstream_task_id or ""
    getattr(upstream, shows)[upstream_task_id] = SUCCESS
    decision = Decision(Verdict.ABSENT, reason=WHY)

    with pytest.raises(InvalidRequest, match=f"as {upstream_task_id}: --charge charges"):
        await resolve(runtime, "cli:jo", task_id, decision)
    assert await evidence_of(runtime, task_id) is None
    await resolve(runtime, "cli:jo", task_id, replace(decision, is_forced=True))

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.OPERATOR)


async def test_the_hold_of_a_vanished_task_that_failed_there_is_let_go(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await vanish(runtime, principal, upstream, clock)
    upstream_task_id = (await find_task(runtime, task_id)).upstream_task_id or ""
    upstream.shown[upstream_task_id] = Observation("failed", {})

    await resolve(runtime, "cli:jo", task_id, Decision(Verdict.ABSENT, reason=WHY))

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.OPERATOR)
