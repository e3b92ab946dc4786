"""Submissions whose answer was lost: adopted on proof, given up on proof, never guessed."""

import io
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, TaskError, TaskState
from gateway.errors import SubmissionsUnconfirmed, UpstreamUnavailable
from gateway.ports import ListedPage, Runtime
from gateway.services.observing import observe_due
from gateway.services.reconciling import reconcile_due
from gateway.services.submission import submit_task
from gateway.storage import attempts, balances, meta, schema, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import (
    SUCCESS,
    a_body,
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

# The longest submit: three times to connect, a write and an answer, and the margins.
DEADLINE_S = 745.0
QUIET_S = 900.0


class Restless(FakeUpstream):
    """Shows another foreign task in its list each time, of an hour ago."""

    def __init__(self, upstream: FakeUpstream, clock: FakeClock) -> None:
        super().__init__(listed=upstream.listed, shown=upstream.shown, now_ms=clock.now_ms)
        self._clock = clock

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        page = await super().list_tasks(
            credential, page_num=page_num, page_size=page_size, service_tier=service_tier
        )
        ago_ms = self._clock.now - 1000 * (600 + len(self.pages))
        items = [*page.items, a_stranger(len(self.pages), ago_ms)]
        return ListedPage(items, len(items), len(items))


def _note_call(conn: sa.Connection, task_id: str, at_ms: int) -> None:
    conn.execute(
        sa.update(schema.tasks).where(schema.tasks.c.id == task_id).values(called_back_at_ms=at_ms)
    )


@pytest.fixture(autouse=True)
def _dated(upstream: FakeUpstream, clock: FakeClock) -> None:
    upstream.now_ms = clock.now_ms


async def test_while_nothing_is_lost_nothing_is_read(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)

    await pass_time(runtime, upstream, clock, 3500)

    assert not upstream.pages
    assert not upstream.lists


async def test_the_whole_list_is_audited_once_an_hour(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)

    await pass_time(runtime, upstream, clock, 3 * 3600 + 60)

    assert len(upstream.pages) == 3


async def test_a_lost_submission_is_adopted_by_the_seed_that_its_task_shows(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    task_id = await lose(runtime, principal, upstream)

    await reconcile_due(runtime, upstream, "default")

    task = await find_task(runtime, task_id)
    assert (task.state, task.upstream_task_id) == (TaskState.QUEUED, "up-1")
    assert task.next_poll_at_ms is not None
    assert await evidence_of(runtime, task_id) is None
    assert len(upstream.submits) == 1
    (event,) = events_in(log_stream, "task.adopted")
    assert (event["upstream_task_id"], event["proof"]) == ("up-1", "marker")
    assert runtime.metrics.reconciliations.values["marker",] == 1
    # And the observer follows it to its end.
    upstream.shown["up-1"] = SUCCESS
    clock.advance(120)
    await observe_due(runtime, upstream, "default")
    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.ENDED)


async def test_a_success_that_the_list_shows_in_part_is_adopted_and_ends_by_a_single_read(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = SUCCESS
    upstream.shown_in_list["up-1"] = Observation("succeeded", {})

    await reconcile_due(runtime, upstream, "default")
    adopted = await find_task(runtime, task_id)
    assert (adopted.state, adopted.upstream_task_id) == (TaskState.QUEUED, "up-1")
    await observe_due(runtime, upstream, "default")

    task = await find_task(runtime, task_id)
    assert (task.state, task.fields) == (TaskState.SUCCEEDED, SUCCESS.fields)
    assert not runtime.metrics.estimated_settlements.values


async def test_a_task_that_ended_before_it_was_found_is_settled_at_once(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = SUCCESS

    await reconcile_due(runtime, upstream, "default")

    task = await find_task(runtime, task_id)
    assert task.state is TaskState.SUCCEEDED
    assert task.bill is not None
    assert task.bill.cost_micros > 0
    assert await evidence_of(runtime, task_id) == (EntryKind.SETTLE, EvidenceKind.ENDED)


async def test_a_task_that_failed_before_it_was_found_is_released(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = Observation("failed", {}, TaskError("OutputVideoSensitive", "no"))

    await reconcile_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.FAILED
    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ENDED)


async def test_a_status_word_that_nobody_knows_does_not_keep_a_task_from_being_adopted(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.shown["up-1"] = Observation("pausing", {})

    await reconcile_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_a_list_that_lags_is_read_again_until_it_shows_the_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.hidden_from_list = {"up-1"}

    await pass_time(runtime, upstream, clock, 120)
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    upstream.hidden_from_list = set()
    await pass_time(runtime, upstream, clock, 60)

    assert (await find_task(runtime, task_id)).upstream_task_id == "up-1"


async def test_readings_come_close_together_first_and_then_apart(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await lose(runtime, principal, upstream, is_made=False)
    began_ms = clock.now
    read_at_s = []
    for _ in range(100):
        before = len(upstream.pages)
        await reconcile_due(runtime, upstream, "default")
        if len(upstream.pages) > before:
            read_at_s.append((clock.now - began_ms) // 1000)
        clock.advance(1)

    assert read_at_s == [0, 1, 3, 10, 40, 70]


async def test_absence_is_proved_after_the_quiet_time_by_three_lists_that_show_the_control(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)

    await pass_time(runtime, upstream, clock, DEADLINE_S + QUIET_S)
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    assert await evidence_of(runtime, task_id) is None
    await pass_time(runtime, upstream, clock, 300)
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    await pass_time(runtime, upstream, clock, 900)

    task = await find_task(runtime, task_id)
    assert task.state is TaskState.FAILED
    assert task.error is not None
    assert task.error.code == "SubmissionNotConfirmed"
    assert "safe to submit again" in task.error.message
    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ABSENT)
    (event,) = events_in(log_stream, "task.absence_proved")
    assert event["passes_count"] == 3


async def test_a_list_that_shows_a_task_which_it_may_be_sets_the_count_back(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    candidate = replace(upstream.listed[0], upstream_task_id="up-other", seed=None)
    candidate = replace(candidate, created_at_ms=clock.now // 1000 * 1000)
    await pass_time(runtime, upstream, clock, DEADLINE_S + QUIET_S)
    while (attempt := await runtime.db.read(attempts.find, task_id)) and attempt.pass_count < 2:
        await pass_time(runtime, upstream, clock, 30)

    upstream.listed.insert(0, candidate)
    upstream.shown["up-other"] = Observation("running", {})
    await pass_time(runtime, upstream, clock, 600)

    attempt = await runtime.db.read(attempts.find, task_id)
    assert attempt is not None
    assert attempt.pass_count == 0
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_without_a_control_a_list_proves_no_absence(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)

    await pass_time(runtime, upstream, clock, 6 * 3600)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_a_list_that_does_not_show_its_control_proves_no_absence(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    control = await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    upstream.hidden_from_list = {control.upstream_task_id or ""}

    await pass_time(runtime, upstream, clock, 6 * 3600)
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    upstream.hidden_from_list = set()
    await pass_time(runtime, upstream, clock, 6 * 3600)

    assert await state_of(runtime, task_id) is TaskState.FAILED


async def test_a_lost_task_of_a_tier_that_has_no_control_hinders_no_proof_of_another(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    flex_id = await lose(runtime, principal, upstream, is_made=False, service_tier="flex")
    task_id = await lose(runtime, principal, upstream, is_made=False, seed=7)

    await pass_time(runtime, upstream, clock, 3600)

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ABSENT)
    # Of its own tier nothing is known.
    assert await state_of(runtime, flex_id) is TaskState.UNKNOWN
    await accept(runtime, principal, service_tier="flex")
    await pass_time(runtime, upstream, clock, 3 * 3600)
    assert await evidence_of(runtime, flex_id) == (EntryKind.RELEASE, EvidenceKind.ABSENT)


async def test_a_control_of_three_days_ago_is_read_back_to(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, reconciler={"page_size": 2})
    await accept(runtime, principal)
    clock.advance(2 * 86_400)
    for number in range(8):
        upstream.listed.insert(0, a_stranger(number, clock.now))
    clock.advance(86_400)
    task_id = await lose(runtime, principal, upstream, is_made=False)

    await pass_time(runtime, upstream, clock, 3600)

    assert await state_of(runtime, task_id) is TaskState.FAILED


async def test_a_list_that_another_reading_does_not_confirm_proves_no_absence(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    restless = Restless(upstream, clock)

    end_ms = clock.now + 3 * 3_600_000
    while clock.now < end_ms:
        await reconcile_due(runtime, restless, "default")
        clock.advance(30)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_a_called_back_attempt_is_not_absent(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    await runtime.db.write(_note_call, task_id, clock.now)

    await pass_time(runtime, upstream, clock, 2 * 3600)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_two_projects_that_cant_be_told_apart_get_nothing(
    runtime: Runtime,
    principal: Principal,
    stranger: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    upstream.echoes = False
    mine = await lose(runtime, principal, upstream, is_made=True)
    theirs = await lose(runtime, stranger, upstream, is_made=False)
    upstream.shown["up-2"] = SUCCESS

    await pass_time(runtime, upstream, clock, DEADLINE_S + QUIET_S)
    assert await state_of(runtime, mine) is TaskState.UNKNOWN
    await pass_time(runtime, upstream, clock, 3600)

    for task_id in (mine, theirs):
        task = await find_task(runtime, task_id)
        assert (task.state, task.upstream_task_id) == (TaskState.FAILED, None)
        assert task.error is not None
        assert task.error.code == "SubmissionOutcomeUnknown"
        assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.DISPUTED)
    assert {event["task_id"] for event in events_in(log_stream, "task.disputed")} == {mine, theirs}
    # What the upstream bills for it is nobody's but the organization's.
    await pass_time(runtime, upstream, clock, 2 * 3600)
    (orphan,) = await orphans_of(runtime)
    assert orphan.upstream_task_id == "up-2"
    assert orphan.task_id is not None
    assert [len(await losses_of(runtime, task_id)) for task_id in (mine, theirs)].count(1) == 1


async def test_a_seed_tells_two_projects_with_the_same_request_apart(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    theirs = await lose(runtime, stranger, upstream)
    mine = await lose(runtime, principal, upstream)

    await reconcile_due(runtime, upstream, "default")

    assert (await find_task(runtime, theirs)).upstream_task_id == "up-1"
    assert (await find_task(runtime, mine)).upstream_task_id == "up-2"


async def test_in_an_account_of_ours_alone_the_one_unknown_task_is_the_lost_one(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    await pass_time(runtime, upstream, clock, 60)
    await accept(runtime, principal)
    clock.advance(120)
    upstream.echoes = False
    task_id = await lose(runtime, principal, upstream)

    await pass_time(runtime, upstream, clock, 90)

    assert (await find_task(runtime, task_id)).upstream_task_id == "up-2"
    assert runtime.metrics.reconciliations.values["exclusion",] == 1


async def test_exclusion_gives_no_project_what_may_be_anothers(
    runtime: Runtime,
    principal: Principal,
    stranger: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    await pass_time(runtime, upstream, clock, 60)
    await accept(runtime, principal)
    clock.advance(120)
    upstream.echoes = False
    mine = await lose(runtime, principal, upstream)
    theirs = await lose(runtime, stranger, upstream)
    upstream.shown |= {"up-2": SUCCESS, "up-3": SUCCESS}

    await pass_time(runtime, upstream, clock, 3600)

    assert await state_of(runtime, mine) is TaskState.FAILED
    assert await state_of(runtime, theirs) is TaskState.FAILED


async def test_exclusion_gives_equal_requests_of_one_project_a_task_each(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    await pass_time(runtime, upstream, clock, 60)
    await accept(runtime, principal)
    clock.advance(120)
    upstream.echoes = False
    first = await lose(runtime, principal, upstream)
    second = await lose(runtime, principal, upstream)

    await pass_time(runtime, upstream, clock, 120)

    got = {(await find_task(runtime, each)).upstream_task_id for each in (first, second)}
    assert got == {"up-2", "up-3"}


async def test_an_account_that_others_use_is_told_of_and_exclusion_ends(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    await pass_time(runtime, upstream, clock, 60)
    await accept(runtime, principal)
    clock.advance(120)
    upstream.listed.insert(0, a_stranger(1, clock.now))
    await pass_time(runtime, upstream, clock, 2 * 3600)
    assert events_in(log_stream, "reconciler.list_shared")

    upstream.echoes = False
    task_id = await lose(runtime, principal, upstream)
    await pass_time(runtime, upstream, clock, 300)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN


async def test_exclusion_is_back_once_the_list_holds_no_tasks_of_others(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    await pass_time(runtime, upstream, clock, 60)
    upstream.listed.insert(0, a_stranger(1, clock.now))
    await pass_time(runtime, upstream, clock, 2 * 3600)
    upstream.listed.clear()
    clock.advance(7 * 86_400)
    await accept(runtime, principal)
    clock.advance(120)
    upstream.echoes = False
    task_id = await lose(runtime, principal, upstream)

    await pass_time(runtime, upstream, clock, 120)

    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_tasks_of_others_from_before_the_account_was_ours_are_no_sign_of_sharing(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock, log_stream: io.StringIO
) -> None:
    upstream.listed.insert(0, a_stranger(1, clock.now))
    clock.advance(86_400)
    runtime = tuned(runtime, markers={"exclusion": True})

    await pass_time(runtime, upstream, clock, 2 * 3600)

    assert not events_in(log_stream, "reconciler.list_shared")


async def test_tasks_of_others_in_a_shared_account_are_counted_and_not_recorded(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    await accept(runtime, principal)
    upstream.listed += [a_stranger(number, clock.now) for number in range(7)]

    await pass_time(runtime, upstream, clock, 3700)

    assert await runtime.db.read(meta.count_foreign) == 7
    assert not await orphans_of(runtime)
    assert not events_in(log_stream, "task.orphan_found")


async def test_what_others_made_beside_a_lost_submission_is_no_loss_of_ours(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    """It has the same shape and was made in the same minute, but shows another seed."""
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    upstream.make(upstream.submits[-1], "up-foreign")
    upstream.listed[0] = replace(upstream.listed[0], seed=11)
    upstream.shown["up-foreign"] = SUCCESS

    await pass_time(runtime, upstream, clock, 3 * 3600)

    assert await state_of(runtime, task_id) is TaskState.FAILED
    assert not await orphans_of(runtime)
    assert await losses_of(runtime, task_id) == []
    assert await runtime.db.read(meta.count_foreign) == 1


async def test_a_submission_makes_one_task_so_it_bears_one_loss(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    """Of two tasks that it may have made, in a list without seeds, one is somebody else's."""
    upstream.echoes = False
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    for name in ("up-a", "up-b"):
        upstream.make(upstream.submits[-1], name)
        upstream.shown[name] = SUCCESS

    await pass_time(runtime, upstream, clock, 3 * 3600)

    assert [orphan.task_id for orphan in await orphans_of(runtime)].count(task_id) == 1
    assert len(await orphans_of(runtime)) == 2
    assert len(await losses_of(runtime, task_id)) == 1


async def test_a_task_that_comes_after_its_absence_was_proved_is_a_late_orphan(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> None:
    await accept(runtime, principal)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    await pass_time(runtime, upstream, clock, 3500)
    assert await state_of(runtime, task_id) is TaskState.FAILED
    upstream.make(upstream.submits[-1], "up-late")

    await pass_time(runtime, upstream, clock, 3700)
    (orphan,) = await orphans_of(runtime)
    assert (orphan.upstream_task_id, orphan.task_id) == ("up-late", task_id)
    assert await losses_of(runtime, task_id) == []
    upstream.shown["up-late"] = SUCCESS
    await pass_time(runtime, upstream, clock, 2 * 3700)

    task = await find_task(runtime, task_id)
    assert (task.state, task.upstream_task_id, task.bill) == (TaskState.FAILED, None, None)
    (loss,) = await losses_of(runtime, task_id)
    assert loss > 0
    assert not upstream.cancels
    assert len(events_in(log_stream, "task.orphan_found")) == 1
    assert len(events_in(log_stream, "ledger.loss_booked")) == 1
    spent = [each.spent.micros for each in await runtime.db.read(balances.list_all)]
    assert set(spent) == {0}


async def test_a_task_that_the_upstream_made_twice_leaves_an_orphan(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    clock.advance(1)
    upstream.make(upstream.submits[-1], "up-twin")

    await reconcile_due(runtime, upstream, "default")
    upstream.shown |= {"up-1": SUCCESS, "up-twin": SUCCESS}
    await observe_due(runtime, upstream, "default")
    await pass_time(runtime, upstream, clock, 3700)

    assert (await find_task(runtime, task_id)).upstream_task_id == "up-1"
    (orphan,) = await orphans_of(runtime)
    assert (orphan.upstream_task_id, orphan.task_id) == ("up-twin", task_id)
    assert len(await losses_of(runtime, task_id)) == 1


async def test_a_list_that_fails_leaves_its_submissions_to_the_next_reading(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    upstream.list_error = UpstreamUnavailable("No answer.", retry_after_s=20)

    await pass_time(runtime, upstream, clock, 10)
    attempt = await runtime.db.read(attempts.find, task_id)
    assert attempt is not None
    assert (attempt.probe_count, attempt.next_probe_at_ms) == (1, clock.now + 10_000)
    upstream.list_error = None
    await pass_time(runtime, upstream, clock, 60)

    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_a_probe_that_a_wrong_clock_planned_far_ahead_is_due(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await lose(runtime, principal, upstream)
    far_ms = clock.now + 30 * 86_400_000
    await runtime.db.write(attempts.schedule_probe, task_id, 3, 0, far_ms)

    await reconcile_due(runtime, upstream, "default")

    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_what_another_process_reads_for_is_left_to_it(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await lose(runtime, principal, upstream, is_made=False)
    claimed = await runtime.db.write(
        attempts.claim_probes,
        "fake",
        "default",
        now_ms=clock.now,
        far_ms=clock.now + 10_000_000,
        lease_until_ms=clock.now + 60_000,
        limit=10,
    )

    assert len(claimed) == 1
    assert await reconcile_due(runtime, upstream, "default") == 0
    clock.advance(61)
    assert await reconcile_due(runtime, upstream, "default") == 1


async def test_the_lost_task_of_another_credential_of_the_same_account_is_nobodys_orphan(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    runtime = tuned(runtime, markers={"safety_identifier": True})
    task_id = await lose(runtime, principal, upstream)
    upstream.credentials = ("default", "next")

    await reconcile_due(runtime, upstream, "next")
    clock.advance(3601)
    await reconcile_due(runtime, upstream, "next")

    assert not await orphans_of(runtime)
    await reconcile_due(runtime, upstream, "default")
    assert await state_of(runtime, task_id) is TaskState.QUEUED


async def test_a_marked_task_of_nobodys_is_an_orphan_even_in_a_shared_account(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    marked = a_stranger(1, clock.now, safety_identifier="user.sgmabcdefghijklm")
    upstream.listed.insert(0, marked)

    await pass_time(runtime, upstream, clock, 3700)

    (orphan,) = await orphans_of(runtime)
    assert (orphan.upstream_task_id, orphan.task_id) == ("foreign-1", None)


@pytest.mark.parametrize(
    ("setting", "keys_count"), [("max_unknown_key", 1), ("max_unknown", 2)], ids=["key", "account"]
)
async def test_at_so_many_unknown_submissions_more_get_503_and_hold_nothing(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    setting: str,
    keys_count: int,
) -> None:
    runtime = tuned(runtime, submit={"max_unknown": 10, "max_unknown_key": 10, setting: 2})
    keys = [replace(principal, key_id=f"Key{number:09d}") for number in range(keys_count)]
    for number in range(2):
        await lose(runtime, keys[number % keys_count], upstream, is_made=False)
    before = await runtime.db.read(balances.list_all)

    with pytest.raises(SubmissionsUnconfirmed) as caught:
        await submit_task(runtime, keys[0], a_body("another"), "req")

    assert (caught.value.public_status, caught.value.retry_after_s) == (503, 30)
    assert await runtime.db.read(balances.list_all) == before
    assert len(await runtime.db.read(tasks.list_all, 10)) == 2
    assert len(upstream.submits) == 2


async def test_a_found_submission_makes_room_for_the_next(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    for _ in range(2):
        await lose(runtime, principal, upstream)
    await reconcile_due(runtime, upstream, "default")

    submitted = await submit_task(runtime, principal, a_body("another"), "req")

    assert submitted.task.state is TaskState.QUEUED
