"""Replay of the outcome journal: what came of submits while the database refused to hear of it."""

from typing import Final

from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.tasks import Event
from gateway.errors import StorageUnavailable
from gateway.ports import JournalEntry, Runtime, Submission
from gateway.services.sending import Outcome, apply_outcome
from gateway.storage import tasks

_MARGIN_S: Final = 10.0


async def replay_old(runtime: Runtime) -> int:
    """Store the outcomes that their own submit has given up by now; return how many."""
    limit_s = runtime.config.submit.outcome_s_max + _MARGIN_S
    return await replay(runtime, runtime.clock.now_ms() - int(limit_s * 1000))


async def replay(runtime: Runtime, before_ms: int | None = None) -> int:
    """Store the outcomes in the journal, those from before `before_ms` alone; return how many.

    Whoever wrote one may have told its client anything, so a refusal makes the task `failed`: its
    client may know the id. Raises: StorageUnavailable, and what is not stored stays.
    """
    contents = await runtime.journal.read_all()
    runtime.metrics.journal_entries.set(len(contents.entries))
    if contents.damaged_count:
        # Set aside with the next `forget`. What such a line told of, the reconciler finds.
        runtime.log.error("journal.damaged", lines_count=contents.damaged_count)
    due = [each for each in contents.entries if before_ms is None or each.at_ms < before_ms]
    for entry in due:
        await _replay_one(runtime, entry)
    if due or contents.damaged_count:
        await runtime.journal.forget(due)
    return len(due)


async def _replay_one(runtime: Runtime, entry: JournalEntry) -> None:
    stored = await runtime.db.read(tasks.find, entry.task_id)
    if stored is None:  # lost with the database that knew it
        runtime.log.error(
            "task.submission_lost",
            task_id=entry.task_id,
            upstream_task_id=entry.upstream_task_id,
            reason="The task of an outcome in the journal is gone.",
        )
        return
    try:
        moved, _ = await apply_outcome(runtime, stored.task, outcome_of(entry), is_id_given=True)
    except StorageUnavailable:
        raise
    except Exception as error:
        runtime.log.exception(
            "task.submission_lost",
            task_id=entry.task_id,
            upstream_task_id=entry.upstream_task_id,
            reason="The outcome in the journal can't be stored.",
            exc_info=error,
        )
        moved, _ = await apply_outcome(runtime, stored.task, Outcome(Event.LOST), is_id_given=True)
    runtime.log.warning(
        "journal.replayed",
        task_id=entry.task_id,
        upstream_task_id=entry.upstream_task_id,
        to_state=moved.state.value,
    )


def outcome_of(entry: JournalEntry) -> Outcome:
    """Return the outcome that an entry keeps."""
    submission = evidence = None
    if entry.upstream_task_id is not None:
        submission = Submission(entry.upstream_task_id, entry.upstream_request_id)
    if entry.event is Event.REFUSED:
        code = entry.error.code if entry.error is not None else ""
        evidence = Evidence(EvidenceKind.REJECTED, code)
    return Outcome(entry.event, submission, entry.error, evidence)
