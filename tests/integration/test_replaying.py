"""The outcome journal is replayed: nothing that came of a submit is lost, nothing counts twice."""

from gateway.domain.billing import EntryKind, Evidence, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Event, Task, TaskError, TaskState
from gateway.errors import UpstreamAmbiguous
from gateway.journal import DAMAGED_FILE, JOURNAL_FILE
from gateway.ports import JournalEntry, Runtime
from gateway.services.reconciling import NOT_CONFIRMED, give_up
from gateway.services.replaying import replay, replay_old
from gateway.services.submission import submit_task
from gateway.storage import ledger, orphans, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY

CODE = "InputTextSensitiveContentDetected"


async def lose_one(runtime: Runtime, principal: Principal, upstream: FakeUpstream) -> Task:
    """Submit with an answer that is lost; return the unknown task."""
    upstream.submit_errors = [UpstreamAmbiguous("The connection broke.")]
    task = (await submit_task(runtime, principal, BODY, "req")).task
    assert task.state is TaskState.UNKNOWN
    return task


async def state_of(runtime: Runtime, task: Task) -> Task:
    stored = await runtime.db.read(tasks.find, task.id)
    assert stored is not None
    return stored.task


async def kinds_of(runtime: Runtime, task: Task) -> list[EntryKind]:
    return [entry.kind for entry in await runtime.db.read(ledger.list_entries, task.id)]


def accepted(task: Task, at_ms: int, upstream_task_id: str = "up-77") -> JournalEntry:
    return JournalEntry(task.id, Event.ACCEPTED, at_ms, upstream_task_id, "req-77")


async def pending(runtime: Runtime) -> int:
    return len((await runtime.journal.read_all()).entries)


async def test_an_accepted_outcome_is_stored_and_forgotten(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    await runtime.journal.append(accepted(task, clock.now_ms()))

    assert await replay(runtime) == 1
    assert await replay(runtime) == 0

    now = await state_of(runtime, task)
    assert now.state is TaskState.QUEUED
    assert now.upstream_task_id == "up-77"
    assert now.upstream_request_id == "req-77"
    assert await pending(runtime) == 0
    assert await kinds_of(runtime, task) == [EntryKind.HOLD]


async def test_a_replay_that_died_before_it_forgot_changes_nothing_more(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    entry = accepted(task, clock.now_ms())
    await runtime.journal.append(entry)
    await replay(runtime)
    await runtime.journal.append(entry)

    await replay(runtime)

    assert (await state_of(runtime, task)).version == task.version + 1
    assert not await runtime.db.read(orphans.list_of_task, task.id)


async def test_a_refusal_fails_the_task_and_releases_its_hold(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    error = TaskError(CODE, "No.")
    await runtime.journal.append(JournalEntry(task.id, Event.REFUSED, clock.now_ms(), error=error))

    await replay(runtime)

    now = await state_of(runtime, task)
    assert now.state is TaskState.FAILED
    assert now.error == error
    assert await kinds_of(runtime, task) == [EntryKind.HOLD, EntryKind.RELEASE]


async def test_young_outcomes_are_left_to_their_own_submit(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    await runtime.journal.append(accepted(task, clock.now_ms()))

    assert await replay_old(runtime) == 0
    clock.advance(runtime.config.submit.outcome_s_max + 60)
    assert await replay_old(runtime) == 1
    assert (await state_of(runtime, task)).state is TaskState.QUEUED


async def test_an_accepted_outcome_of_a_task_that_was_given_up_is_an_orphan(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    evidence = Evidence(EvidenceKind.ABSENT, "three lists")
    assert await give_up(runtime, task, NOT_CONFIRMED, evidence) is not None
    await runtime.journal.append(accepted(task, clock.now_ms()))

    await replay(runtime)

    assert (await state_of(runtime, task)).state is TaskState.FAILED
    found = await runtime.db.read(orphans.list_of_task, task.id)
    assert [orphan.upstream_task_id for orphan in found] == ["up-77"]
    assert await pending(runtime) == 0


async def test_an_id_that_another_task_has_leaves_the_outcome_unknown(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    other = (await submit_task(runtime, principal, BODY, "req")).task
    task = await lose_one(runtime, principal, upstream)
    assert other.upstream_task_id is not None
    await runtime.journal.append(accepted(task, clock.now_ms(), other.upstream_task_id))

    await replay(runtime)

    assert (await state_of(runtime, task)).state is TaskState.UNKNOWN
    assert (await state_of(runtime, other)).state is TaskState.QUEUED
    assert await pending(runtime) == 0


async def test_the_outcome_of_a_task_that_is_gone_is_told_and_forgotten(
    runtime: Runtime, clock: FakeClock
) -> None:
    await runtime.journal.append(
        JournalEntry(
            "cgt-20261122150102-aaaaaaaaaaaaaaaaaaaa", Event.ACCEPTED, clock.now_ms(), "up-9"
        )
    )

    assert await replay(runtime) == 1
    assert await pending(runtime) == 0


async def test_damaged_lines_are_set_aside_and_the_others_stored(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = await lose_one(runtime, principal, upstream)
    await runtime.journal.append(accepted(task, clock.now_ms()))
    with (runtime.config.data_dir / JOURNAL_FILE).open("ab") as journal:
        journal.write(b'{"v":1,"task_id":"torn')

    assert await replay(runtime) == 1

    assert (await state_of(runtime, task)).state is TaskState.QUEUED
    assert "torn" in (runtime.config.data_dir / DAMAGED_FILE).read_text()
