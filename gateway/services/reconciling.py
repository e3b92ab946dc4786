"""The reconciler: which upstream task came of a submission whose answer was lost.

It reads the list of a credential's account while something is lost there, and all of it now and
then. What the list proves is in `gateway/domain/reconciling.py`; what becomes of it is here: a task
is adopted, given up with its reason, or waits for the next reading. An upstream task that no open
submission can have is an orphan.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.likeness import Standing
from gateway.domain.reconciling import (
    Adoption,
    Dispute,
    counts_for_absence,
    is_absent,
    next_probe_ms,
)
from gateway.domain.tasks import Event, Task, TaskError, advance
from gateway.errors import UpstreamFault
from gateway.ports import Runtime, Upstream
from gateway.services.adopting import adopt
from gateway.services.holding import has_ended, resolve_vanished
from gateway.services.judging import LISTED_MS, Judged, judge, policy_of, read_span
from gateway.services.late_orphans import note_shared, record_orphans
from gateway.services.moves import record_move
from gateway.steadiness import TRUSTED_S, span_of
from gateway.storage import accounts, attempts, meta
from gateway.storage.accounts import Agenda, Claimant
from gateway.storage.meta import AccountFact

if TYPE_CHECKING:
    from sqlalchemy import Connection

NOT_CONFIRMED: Final = TaskError(
    "SubmissionNotConfirmed",
    "The upstream never got this submission, and nothing is charged. It is safe to submit again, "
    "with a new Idempotency-Key if it had one.",
)
OUTCOME_UNKNOWN: Final = TaskError(
    "SubmissionOutcomeUnknown",
    "It can't be found out whether the upstream got this submission; a new one may be made twice.",
)

_LEASE_MS: Final = 60_000
_LONGEST_DELAY_MS: Final = 3_600_000
_CLAIMED_MAX: Final = 1000
_AUDIT_AGAIN_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison of an account's whole list came to."""

    listed_count: int
    adopted_count: int
    orphans_count: int
    """Those that were recorded now."""
    foreign_count: int
    undecided_count: int
    """Those that may be of a submission whose answer is still waited for."""
    is_complete: bool


@dataclass(frozen=True, slots=True)
class _Probe:
    """What is noted of a lost attempt after a reading."""

    task_id: str
    probe_count: int
    pass_count: int
    next_at_ms: int


async def reconcile_due(runtime: Runtime, upstream: Upstream, credential: str) -> int:
    """Look for the lost submissions of a credential whose turn it is; return how many.

    While nothing is lost nothing is read, but for the audit of the whole list. A reading that fails
    leaves its submissions to the next one.
    """
    runtime.steadiness.steady_s()  # a clock that is set for a while only is seen, too
    agenda = await runtime.db.read(accounts.find_agenda, upstream.name, credential)
    await _end_overdue(runtime, upstream, credential, agenda)
    if not upstream.supports_list:  # a callback, an operator or its age ends the wait
        return 0
    facts = await _note_doubt(runtime, upstream.name, credential, agenda.facts)
    facts = await _note_dedication(runtime, upstream.name, credential, facts)
    due = await _claim_due(runtime, upstream.name, credential, agenda)
    is_audit = await _is_audit_due(runtime, upstream.name, credential, facts)
    if due or is_audit:
        try:
            await _compare(runtime, upstream, credential, facts, due, is_audit=is_audit)
        except UpstreamFault as error:
            runtime.log.warning(
                "upstream.call_failed",
                upstream=upstream.name,
                code=error.public_code,
                reason=error.message,
            )
            await _put_off(runtime, due, error.retry_after_s)
            if is_audit:
                await _audit_again_soon(runtime, upstream.name, credential)
    return len(due)


async def compare_all(
    runtime: Runtime, upstream: Upstream, credential: str, lost_ms: tuple[int, int]
) -> Compared:
    """Compare an account's whole list with the tasks here, at once: after a restore.

    Listed tasks that were made in the time which is lost, and belong to none here, are taken for
    the gateway's own and recorded, as long as they are listed. Raises: UpstreamFault.
    """
    lost = (AccountFact.LOST_MS, f"{lost_ms[0]}:{lost_ms[1]}")
    await runtime.db.write(meta.note_of_account, upstream.name, credential, *lost)
    facts = await runtime.db.read(meta.find_of_account, upstream.name, credential)
    facts = await _note_dedication(runtime, upstream.name, credential, facts)
    return await _compare(runtime, upstream, credential, facts, (), is_audit=True)


async def give_up(
    runtime: Runtime,
    task: Task,
    error: TaskError,
    evidence: Evidence | None,
    *,
    is_charged: bool = False,
) -> Task | None:
    """End an unknown task without an upstream task; its client sees it fail by `error`.

    Without evidence its hold stays. None if another worker was first.
    """
    moved = replace(advance(task, Event.ABSENT, runtime.clock.now_ms()), error=error)
    return await record_move(runtime, task, moved, Event.ABSENT, evidence, is_charged=is_charged)


async def _compare(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    facts: Mapping[str, str],
    due: Collection[str],
    *,
    is_audit: bool,
) -> Compared:
    """Read, judge, and do what follows."""
    policy = policy_of(runtime, upstream.name, facts, runtime.clock.now_ms())
    judged = await judge(runtime, upstream, credential, policy, due, is_audit=is_audit)
    adopted = [each for each in judged.verdict.adoptions if await _adopt(runtime, judged, each)]
    # A quiet time that is over by a date alone may be one that somebody has set the clock past.
    is_quiet = runtime.steadiness.steady_s() * 1000 >= policy.quiet_ms
    for dispute in judged.verdict.disputes if is_quiet else ():
        await _give_up_disputed(runtime, judged, dispute)
    await _count_passes(runtime, judged, due, is_quiet=is_quiet)
    orphans_count, foreign_count = await record_orphans(runtime, upstream, credential, judged)
    await note_shared(runtime, upstream.name, credential, judged, is_audit=is_audit)
    if is_audit:
        counted = (AccountFact.FOREIGN_COUNT, str(foreign_count))
        await runtime.db.write(meta.note_of_account, upstream.name, credential, *counted)
        ended_ids = {x.upstream_task_id for x in judged.seen.items if has_ended(x.status)}
        await resolve_vanished(runtime, upstream, credential, ended_ids)
    return Compared(
        len(judged.seen.items),
        len(adopted),
        orphans_count,
        foreign_count,
        len(judged.verdict.undecided_ids),
        judged.seen.is_complete,
    )


async def _adopt(runtime: Runtime, judged: Judged, adoption: Adoption) -> bool:
    claimant = judged.claimants[adoption.task_id]
    listed, proof = adoption.listed, adoption.proof.value
    adopted = await adopt(
        runtime,
        claimant.task,
        listed.upstream_task_id,
        listed.observation,
        proof,
        is_listed=True,
    )
    if adopted is None:
        return False
    runtime.metrics.reconciliations.add(proof)
    return True


async def _give_up_disputed(runtime: Runtime, judged: Judged, dispute: Dispute) -> None:
    """Fail a task that the list can't tell from another's: nobody gets the other's video."""
    task = judged.claimants[dispute.task_id].task
    named = ", ".join(dispute.upstream_task_ids)
    evidence = Evidence(EvidenceKind.DISPUTED, f"{task.route.upstream}: may be any of {named}")
    if await give_up(runtime, task, OUTCOME_UNKNOWN, evidence) is None:
        return
    runtime.metrics.reconciliations.add("disputed")
    runtime.log.error(
        "task.disputed",
        task_id=task.id,
        project=task.project_id,
        upstream=task.route.upstream,
        upstream_task_ids=list(dispute.upstream_task_ids),
    )


async def _count_passes(
    runtime: Runtime, judged: Judged, due: Collection[str], *, is_quiet: bool
) -> None:
    """Count the reading for those that are lost yet; give up those whose absence is proved."""
    verdict = judged.verdict
    resolved = {each.task_id for each in verdict.adoptions}
    if is_quiet:
        resolved |= {each.task_id for each in verdict.disputes}
    lost = [
        each
        for task_id, each in judged.claimants.items()
        if task_id in due and task_id not in resolved and each.sent.standing is Standing.LOST
    ]
    probes = []
    for each in lost:
        pass_count = _pass_count(judged, each) if is_quiet else 0
        if is_absent(each.sent, pass_count, judged.policy):
            await _give_up_absent(runtime, each, pass_count)
        else:
            probes.append(_next_probe(runtime, each, pass_count))
    if probes:
        await runtime.db.write(_schedule, probes)


def _pass_count(judged: Judged, claimant: Claimant) -> int:
    """Return how many readings count for the absence of an attempt, with the present one."""
    sent, seen = claimant.sent, judged.seen
    if not seen.is_complete:
        return sent.attempt.pass_count
    if claimant.task.id not in judged.verdict.unseen:
        return 0
    return sent.attempt.pass_count + counts_for_absence(sent, seen, judged.policy)


async def _give_up_absent(runtime: Runtime, claimant: Claimant, pass_count: int) -> None:
    task = claimant.task
    detail = f"{task.route.upstream}: {pass_count} complete lists without it"
    evidence = Evidence(EvidenceKind.ABSENT, detail)
    if await give_up(runtime, task, NOT_CONFIRMED, evidence) is None:
        return
    runtime.metrics.reconciliations.add("absent")
    runtime.log.warning(
        "task.absence_proved",
        task_id=task.id,
        project=task.project_id,
        upstream=task.route.upstream,
        passes_count=pass_count,
    )


async def _end_overdue(
    runtime: Runtime, upstream: Upstream, credential: str, agenda: Agenda
) -> None:
    """End what nothing has explained for so long, as it is configured: that is the evidence.

    A date alone does not tell that it was so long: nothing ends while the clock may be wrong.
    """
    settings = runtime.config.submit
    if runtime.steadiness.steady_s() < min(TRUSTED_S, settings.unknown_age_max_s):
        return
    before_ms = runtime.clock.now_ms() - int(settings.unknown_age_max_s * 1000)
    if not agenda.lost_count or agenda.oldest_at_ms > before_ms:
        return
    policy = settings.unknown_policy
    evidence = None
    if policy != "hold":
        evidence = Evidence(EvidenceKind.POLICY, f"submit.unknown_policy: {policy}")
    for task in await runtime.db.read(accounts.list_overdue, upstream.name, credential, before_ms):
        if await give_up(runtime, task, OUTCOME_UNKNOWN, evidence, is_charged=policy == "charge"):
            runtime.metrics.reconciliations.add(f"policy_{policy}")
            runtime.log.error(
                "task.unknown_ended",
                task_id=task.id,
                project=task.project_id,
                upstream=task.route.upstream,
                credential=task.route.credential,
                policy=policy,
            )


async def _claim_due(
    runtime: Runtime, upstream: str, credential: str, agenda: Agenda
) -> Collection[str]:
    """Lease the lost submissions whose turn it is; return their tasks' ids."""
    now_ms = runtime.clock.now_ms()
    far_ms = now_ms + _LONGEST_DELAY_MS + _LEASE_MS
    is_any_due = agenda.first_probe_at_ms <= now_ms or agenda.last_probe_at_ms > far_ms
    if not agenda.lost_count or not is_any_due:
        return ()
    return await runtime.db.write(
        attempts.claim_probes,
        upstream,
        credential,
        now_ms=now_ms,
        far_ms=far_ms,
        lease_until_ms=now_ms + _LEASE_MS,
        limit=_CLAIMED_MAX,
    )


def _next_probe(runtime: Runtime, claimant: Claimant, pass_count: int) -> _Probe:
    attempt = claimant.sent.attempt
    next_at_ms = next_probe_ms(
        runtime.clock.now_ms(), attempt.probe_count, runtime.config.observer.time_scale
    )
    return _Probe(attempt.task_id, attempt.probe_count + 1, pass_count, next_at_ms)


async def _put_off(runtime: Runtime, due: Collection[str], retry_after_s: int | None) -> None:
    """Plan the next reading after one that failed, as late at least as the upstream asks."""
    asked_ms = min((retry_after_s or 0) * 1000, _LEASE_MS)
    earliest_ms = runtime.clock.now_ms() + asked_ms
    scale = runtime.config.observer.time_scale
    found = await runtime.db.read(attempts.find_many, due)
    probes = [
        _Probe(
            attempt.task_id,
            attempt.probe_count + 1,
            attempt.pass_count,
            max(
                earliest_ms,
                next_probe_ms(runtime.clock.now_ms(), attempt.probe_count, scale),
            ),
        )
        for attempt in found.values()
    ]
    await runtime.db.write(_schedule, probes)


def _schedule(conn: "Connection", probes: Sequence[_Probe]) -> None:
    """One transaction: plan the next readings."""
    # In the order of ids, so that two processes lock shared rows in the same order.
    for probe in sorted(probes, key=lambda probe: probe.task_id):
        attempts.schedule_probe(
            conn, probe.task_id, probe.probe_count, probe.pass_count, probe.next_at_ms
        )


async def _note_dedication(
    runtime: Runtime, upstream: str, credential: str, facts: Mapping[str, str]
) -> Mapping[str, str]:
    """Keep since when the account is configured to be ours alone; return the facts with it."""
    fact = AccountFact.DEDICATED_SINCE_MS
    is_dedicated = runtime.config.upstream(upstream).markers.exclusion
    if is_dedicated == (fact in facts):
        return facts
    if not is_dedicated:
        await runtime.db.write(meta.forget_of_account, upstream, credential, fact)
        return {name: value for name, value in facts.items() if name != fact}
    now = str(runtime.clock.now_ms())
    await runtime.db.write(meta.note_of_account, upstream, credential, fact, now)
    return {**facts, fact: now}


async def _note_doubt(
    runtime: Runtime, upstream: str, credential: str, facts: Mapping[str, str]
) -> Mapping[str, str]:
    """Keep, for other processes and later ones, which dates the clock was seen to be set past."""
    seen_ms = runtime.steadiness.doubted_ms
    if seen_ms is None:
        return facts
    stored_ms = read_span(facts.get(AccountFact.DOUBTED_MS))
    if stored_ms is not None and stored_ms[1] < seen_ms[0] - LISTED_MS:
        stored_ms = None  # no list goes so far back any more
    span_ms = span_of(seen_ms, stored_ms)
    if span_ms is None or span_ms == stored_ms:
        return facts
    fact, value = AccountFact.DOUBTED_MS, f"{span_ms[0]}:{span_ms[1]}"
    await runtime.db.write(meta.note_of_account, upstream, credential, fact, value)
    return {**facts, fact: value}


async def _is_audit_due(
    runtime: Runtime, upstream: str, credential: str, facts: Mapping[str, str]
) -> bool:
    """Whether it is this process's turn to read the whole list."""
    now_ms = runtime.clock.now_ms()
    before_ms = now_ms - int(runtime.config.reconciler.audit_interval_s * 1000)
    last = facts.get(AccountFact.AUDITED_AT_MS)
    if last is not None and before_ms < int(last) <= now_ms:
        return False
    return await runtime.db.write(
        meta.take_audit, upstream, credential, now_ms=now_ms, before_ms=before_ms
    )


async def _audit_again_soon(runtime: Runtime, upstream: str, credential: str) -> None:
    """Let an audit that failed be due again before the interval is over."""
    interval_s = runtime.config.reconciler.audit_interval_s
    early_ms = int(max(0.0, interval_s - _AUDIT_AGAIN_S) * 1000)
    last = (AccountFact.AUDITED_AT_MS, str(runtime.clock.now_ms() - early_ms))
    await runtime.db.write(meta.note_of_account, upstream, credential, *last)
