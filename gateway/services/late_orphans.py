"""Orphans: upstream tasks that no open submission can have.

One that came of a task which was given up is late: nobody is charged for it, and what the upstream
bills is the organization's loss. One of nobody's is recorded only where it must be the gateway's;
else it is counted as foreign, and so is one whose seed is another than that of each submission it
may be of, in a list that shows the seed which its control was sent with. None is cancelled by
itself, and none reopens a task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.domain.attempts import ListedTask
from gateway.domain.billing import NO_USAGE, EntryKind, Evidence, EvidenceKind, Reservation
from gateway.domain.likeness import is_marked, may_be_lost
from gateway.domain.markers import find_safety_marker, is_marked_expiry
from gateway.domain.quotes import settled_usage
from gateway.domain.reconciling import Orphan, shows_seed_of_control
from gateway.domain.tasks import Event, Task, event_of
from gateway.ports import Runtime, Upstream
from gateway.services.holding import has_ended, resolve_held
from gateway.services.judging import Judged
from gateway.storage import accounts, ledger, meta, orphans, tasks
from gateway.storage.accounts import Claimant
from gateway.storage.meta import AccountFact
from gateway.storage.orphans import StoredOrphan

if TYPE_CHECKING:
    from sqlalchemy import Connection

_STATUS_CHARS_MAX: Final = 64
_ENDS: Final = frozenset({EntryKind.SETTLE, EntryKind.RELEASE})


@dataclass(frozen=True, slots=True)
class _Noted:
    """What was written of an orphan."""

    is_new: bool
    task_id: str | None
    loss_micros: int | None = None
    currency: str = ""


async def record_orphans(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    judged: Judged,
) -> tuple[int, int]:
    """Record the orphans that a list shows; return how many are new, and how many are foreign."""
    new_count = foreign_count = 0
    listed = {task.upstream_task_id: task for task in judged.seen.items}
    for known_id, stored in judged.orphans.items():
        task = listed[known_id]
        if stored.is_proved or not _is_of_others(judged, task, [stored.task_id]):
            await _note(runtime, stored, task, ())
    siblings = await _list_siblings(runtime, upstream, credential, judged)
    for orphan in judged.verdict.orphans:
        task = orphan.listed
        if any(is_marked(each.sent, task) for each in siblings):
            continue  # the other credential's own readings see to it
        task_ids = () if _is_of_others(judged, task, orphan.task_ids) else orphan.task_ids
        if not (task_ids or _is_ours(runtime, upstream.name, judged, task)):
            foreign_count += 1
            continue
        found = StoredOrphan(
            upstream.name,
            credential,
            task.upstream_task_id,
            runtime.clock.now_ms(),
            "",
            task.created_at_ms,
            is_proved=_is_proved(judged, orphan),
        )
        new_count += await _note(runtime, found, task, task_ids)
    return new_count, foreign_count


async def record_late(runtime: Runtime, task: Task, listed: ListedTask) -> bool:
    """Record what is known to have come of a task that was given up; return whether it is new."""
    found = StoredOrphan(
        task.route.upstream,
        task.route.credential,
        listed.upstream_task_id,
        runtime.clock.now_ms(),
        "",
        listed.created_at_ms,
        task.id,
        is_proved=True,
    )
    return await _note(runtime, found, listed, ())


async def note_shared(
    runtime: Runtime, upstream: str, credential: str, judged: Judged, *, is_audit: bool
) -> None:
    """Note, loudly, that an account which is configured to be ours alone is not.

    From then on no task is adopted only because nobody else can have made it.
    """
    if not runtime.config.upstream(upstream).markers.exclusion:
        return
    verdict, policy = judged.verdict, judged.policy
    is_still_shared = is_audit and any(
        _is_stranger(each, policy.dedicated_since_ms) and not may_be_lost(each.listed, policy)
        for each in verdict.orphans
    )
    if not (verdict.is_shared or is_still_shared):
        return
    now_ms = runtime.clock.now_ms()
    await runtime.db.write(
        meta.note_of_account, upstream, credential, AccountFact.SHARED_AT_MS, str(now_ms)
    )
    runtime.log.error(
        "reconciler.list_shared",
        upstream=upstream,
        credential=credential,
        reason="The account has tasks of others: markers.exclusion is off until its list has none.",
    )


def _is_stranger(orphan: Orphan, since_ms: int) -> bool:
    created_at_ms = orphan.listed.created_at_ms
    return not orphan.task_ids and created_at_ms is not None and created_at_ms >= since_ms


def _is_proved(judged: Judged, orphan: Orphan) -> bool:
    """Whether an orphan that may have come of one task alone can't have come of anything else."""
    if len(orphan.task_ids) != 1:
        return False
    sent = judged.claimants[orphan.task_ids[0]].sent
    is_exclusive = judged.policy.exclusion and not judged.verdict.is_shared
    return is_exclusive or is_marked(sent, orphan.listed)


def _is_of_others(judged: Judged, task: ListedTask, task_ids: Sequence[str | None]) -> bool:
    """Whether a list that shows the seeds it was sent shows that no such submission made a task."""
    claimants = [judged.claimants.get(task_id or "") for task_id in task_ids]
    seeds = [each.sent.attempt.markers.seed for each in claimants if each is not None]
    return (
        task.seed is not None
        and bool(seeds)
        and all(seed not in {None, task.seed} for seed in seeds)
        and (judged.policy.echoes_seed or shows_seed_of_control(judged.seen))
    )


def _is_ours(runtime: Runtime, upstream: str, judged: Judged, task: ListedTask) -> bool:
    """Whether a task that belongs to none here must be the gateway's all the same."""
    markers = runtime.config.upstream(upstream).markers
    return (
        judged.policy.exclusion
        or may_be_lost(task, judged.policy)
        or find_safety_marker(task.safety_identifier) is not None
        or (markers.expires_after and is_marked_expiry(task.expires_after_s))
    )


async def _list_siblings(
    runtime: Runtime, upstream: Upstream, credential: str, judged: Judged
) -> Sequence[Claimant]:
    """Return what the upstream's other credentials have lost: they may be of the same account."""
    found: list[Claimant] = []
    if judged.verdict.orphans:
        for other in upstream.credentials:
            if other != credential:
                found += await runtime.db.read(
                    accounts.list_claimants,
                    upstream.name,
                    other,
                    judged.seen.ended_at_ms - judged.policy.list_span_ms,
                )
    return found


async def _note(
    runtime: Runtime, orphan: StoredOrphan, task: ListedTask, candidates: Sequence[str]
) -> bool:
    """Write how an orphan stands, and what it costs once it is billed; return if it is new."""
    status = task.status[:_STATUS_CHARS_MAX]
    is_billed = event_of(status) is Event.SUCCEEDED
    if status == orphan.status and not (is_billed and orphan.entry_step is None):
        await _resolve_held(runtime, orphan)
        return False
    usage = settled_usage(task.observation.fields, NO_USAGE)
    shown = replace(
        orphan,
        status=status,
        model=task.model or orphan.model,
        tokens=orphan.tokens if usage is None else usage.tokens,
    )
    noted = await runtime.db.write(_write, shown, task, candidates, runtime.clock.now_ms())
    if noted is None:
        return False
    if noted.is_new:
        runtime.log.error(
            "task.orphan_found",
            task_id=noted.task_id,
            upstream=orphan.upstream,
            credential=orphan.credential,
            upstream_task_id=orphan.upstream_task_id,
            status=status,
            model=shown.model,
            tokens=shown.tokens,
        )
    if noted.loss_micros is not None:
        runtime.log.error(
            "ledger.loss_booked",
            task_id=noted.task_id,
            upstream=orphan.upstream,
            upstream_task_id=orphan.upstream_task_id,
            cost_micros=noted.loss_micros,
            currency=noted.currency,
        )
    await _resolve_held(runtime, replace(shown, task_id=noted.task_id))
    return noted.is_new


async def _resolve_held(runtime: Runtime, orphan: StoredOrphan) -> None:
    """Resolve the hold that its task still has, by how an orphan has ended that is surely its."""
    upstream = runtime.upstreams.get(orphan.upstream)
    is_due = orphan.is_proved and orphan.entry_step is None and has_ended(orphan.status)
    if orphan.task_id is None or upstream is None or not is_due:
        return
    stored = await runtime.db.read(tasks.find, orphan.task_id)
    is_open = await runtime.db.read(ledger.find_open, orphan.task_id) is not None
    if is_open and stored is not None and stored.task.upstream_task_id is None:
        await resolve_held(runtime, upstream, stored.task, orphan.upstream_task_id)


def _write(
    conn: "Connection",
    orphan: StoredOrphan,
    task: ListedTask,
    candidates: Sequence[str],
    at_ms: int,
) -> _Noted | None:
    """One transaction: the orphan's row and, once, its loss. None if a task has it meanwhile."""
    if accounts.find_known(conn, orphan.upstream, [orphan.upstream_task_id]):
        return None
    task_id = orphan.task_id
    if task_id is None and candidates:
        # Of several that it may be of, one that has no orphan yet: a submission makes one task.
        free = [each for each in candidates if not orphans.list_of_task(conn, each)]
        task_id = next(iter(free or (candidates if orphan.is_proved else ())), None)
    is_new = orphans.record(conn, replace(orphan, task_id=task_id))
    if not is_new:  # another process may have found another task for it meanwhile
        task_id = orphans.find_task_id(conn, orphan) or task_id
    booked = None
    if task_id is not None and event_of(task.status) is Event.SUCCEEDED:
        booked = _book_loss(conn, task_id, orphan, task, at_ms)
    return _Noted(is_new, task_id, *(booked or ()))


def _book_loss(
    conn: "Connection", task_id: str, orphan: StoredOrphan, task: ListedTask, at_ms: int
) -> tuple[int, str] | None:
    """Book what the upstream bills for an orphan, unless its own task bears that, or may yet.

    Once for each orphan: the lock lets one at a time look who bears it.
    """
    ledger.lock(conn, task_id)
    reservation = ledger.find(conn, task_id)
    if reservation is None or orphans.find_step(conn, orphan) is not None:
        return None
    at = f"{orphan.upstream}: {orphan.upstream_task_id} is {task.status}"
    evidence = Evidence(EvidenceKind.ENDED, at)
    if not _is_loss(conn, reservation, orphan, evidence):
        return None
    usage = settled_usage(task.observation.fields, reservation.held) or reservation.held
    cost_micros = reservation.price.cost.amount(usage)
    step = ledger.book_loss(conn, reservation, cost_micros, evidence, at_ms)
    if step is None:  # another credential of the account shows it, too
        return None
    orphans.note_step(conn, orphan, step)
    return cost_micros, reservation.price.cost_currency


def _is_loss(
    conn: "Connection", reservation: Reservation, orphan: StoredOrphan, evidence: Evidence
) -> bool:
    """Whether nobody bears a billed orphan. Of several of a charged task, the charge is of one."""
    task_id = reservation.task_id
    stored = tasks.find(conn, task_id)
    if stored is None:
        return False
    if stored.task.upstream_task_id is not None:  # a twin of the one that is charged
        return True
    ends = [x for x in ledger.list_entries(conn, task_id) if x.kind in _ENDS]
    if not ends:
        return False  # held until the upstream or an operator decides
    (end,) = ends
    if end.kind is EntryKind.RELEASE:
        return True
    is_by_one = end.evidence is not None and end.evidence.kind is EvidenceKind.ENDED
    borne = ledger.RESOLUTION_STEP
    is_borne = any(x.entry_step == borne for x in orphans.list_of_task(conn, task_id))
    if is_borne or (is_by_one and end.evidence != evidence):
        return True
    orphans.note_step(conn, orphan, borne)
    return False
