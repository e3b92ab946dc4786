"""What an operator decides of a task that nothing else explains: found, absent, or charged.

Such a task is unknown, or it has ended and its hold waits all the same. The operator's word is the
evidence, with the name and the reason; of a task that is said to be found, the upstream's own. No
word stands against what the upstream shows of a task whose client still waits.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.likeness import Policy, contradicts, is_marked, is_timely
from gateway.domain.projects import AuditEvent
from gateway.domain.tasks import TERMINAL, Task, TaskError, TaskState
from gateway.errors import InvalidRequest
from gateway.observability.logging import mask
from gateway.ports import Runtime
from gateway.services.adopting import adopt
from gateway.services.moves import resolve_ended
from gateway.services.observing import upstream_of
from gateway.services.operating import TaskReport, get_report
from gateway.services.reconciling import NOT_CONFIRMED, OUTCOME_UNKNOWN, give_up
from gateway.services.sighting import look_for
from gateway.storage import accounts, audit, ledger, orphans

REASON_CHARS_MAX: Final = 500
_CHARGED: Final = TaskError(OUTCOME_UNKNOWN.code, "An operator has closed this task as charged.")
_SAID_ABSENT: Final = TaskError(
    NOT_CONFIRMED.code,
    "An operator has decided that the upstream never got this submission, and nothing is charged. "
    "A new one needs a new Idempotency-Key if it had one.",
)
"""For want of a look at the upstream: nobody can tell that to submit again is safe."""


class Verdict(StrEnum):
    FOUND = "found"
    ABSENT = "absent"
    CHARGE = "charge"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the operator says, and why."""

    verdict: Verdict
    upstream_task_id: str | None = None
    """Of FOUND: the task that came of the submission."""
    reason: str = ""
    """Needed but for FOUND, whose evidence is the upstream's."""
    is_forced: bool = False
    """Of FOUND: also if the upstream shows it in another shape, such as by another model's name.
    Of ABSENT: also if nobody can look, or if the task has ended and the upstream shows it."""


async def resolve(runtime: Runtime, actor: str, task_id: str, decision: Decision) -> TaskReport:
    """Decide of a task, and return it as that leaves it.

    FOUND adopts the upstream's task once the upstream has shown it. ABSENT releases the hold,
    CHARGE settles it at what was quoted, both unless the upstream shows what came of it.

    Raises: TaskNotFound, InvalidRequest if there is nothing to decide or what the upstream shows
    speaks against it, UpstreamFault if the task that is said to be found can't be read.
    """
    _check_reason(decision)
    task = (await get_report(runtime, task_id)).task
    if task.state is not TaskState.UNKNOWN and task.state not in TERMINAL:
        raise InvalidRequest(f"The task {task.id} is {task.state.value}: it explains itself.")
    await _record(runtime, actor, task, decision)
    if decision.verdict is Verdict.FOUND:
        done = await _adopt_found(runtime, task, decision)
    else:
        done = await _close(runtime, actor, task, decision)
    if done is None:
        state = (await get_report(runtime, task_id)).task.state.value
        raise InvalidRequest(f"There is nothing to decide: the task {task.id} is {state}.")
    runtime.metrics.reconciliations.add("operator")
    return await get_report(runtime, task_id)


def _check_reason(decision: Decision) -> None:
    if not decision.reason.strip() and (
        decision.is_forced or decision.verdict is not Verdict.FOUND
    ):
        raise InvalidRequest(
            f"The decision needs a reason, 1 to {REASON_CHARS_MAX} characters, which the ledger "
            "keeps (--reason)."
        )
    if len(decision.reason) > REASON_CHARS_MAX:
        raise InvalidRequest(
            f"The reason has {len(decision.reason)} characters, of {REASON_CHARS_MAX} at most."
        )


async def _close(runtime: Runtime, actor: str, task: Task, decision: Decision) -> Task | None:
    is_charged = decision.verdict is Verdict.CHARGE
    if task.state in TERMINAL and await runtime.db.read(ledger.find_open, task.id) is None:
        return None
    is_blind = await _refuse_against_sight(runtime, task, decision)
    forced = " by force" if decision.is_forced else ""
    said = f"{actor} said {decision.verdict.value}{forced}: {mask(decision.reason)}"
    evidence = Evidence(EvidenceKind.OPERATOR, said)
    if task.state in TERMINAL:
        return await resolve_ended(runtime, task, evidence, is_charged=is_charged)
    error = _CHARGED if is_charged else _SAID_ABSENT if is_blind else NOT_CONFIRMED
    return await give_up(runtime, task, error, evidence, is_charged=is_charged)


async def _refuse_against_sight(runtime: Runtime, task: Task, decision: Decision) -> bool:
    """Raise if the upstream shows otherwise than is said; return whether it shows nothing at all.

    A task that has ended is charged without a look: who had it can be told nothing new.
    """
    is_charged = decision.verdict is Verdict.CHARGE
    if task.state in TERMINAL and is_charged:
        return False
    sight = await look_for(runtime, task)
    name, seen_id = task.route.upstream, sight.upstream_task_id
    if seen_id is not None and task.state not in TERMINAL:
        raise InvalidRequest(
            f"The upstream {name} has the task {task.id}, as {seen_id}: --found {seen_id} settles "
            "it by what became of it there."
        )
    if seen_id is not None and not decision.is_forced:
        raise InvalidRequest(
            f"The upstream {name} has the task {task.id}, as {seen_id}: --charge charges what was "
            "quoted; --absent --force releases it all the same, and its cost there is the loss."
        )
    if sight.blind and not is_charged and not decision.is_forced:
        raise InvalidRequest(
            f"Whether the upstream {name} has the task {task.id} can't be seen: {sight.blind}. "
            "--force decides all the same."
        )
    return bool(sight.blind)


async def _adopt_found(runtime: Runtime, task: Task, decision: Decision) -> Task | None:
    upstream_task_id = decision.upstream_task_id or ""
    if task.state in TERMINAL:
        raise InvalidRequest(
            f"The task {task.id} has ended, and nothing reopens it: say whether it is charged."
        )
    await _refuse_taken(runtime, task, upstream_task_id)
    upstream = upstream_of(runtime, task)
    listed = await upstream.find_task(task.route.credential, upstream_task_id)
    if listed is None or not listed.status:
        raise InvalidRequest(f"The upstream {upstream.name} shows no task {upstream_task_id}.")
    for claimant in await runtime.db.read(
        accounts.list_claimants, upstream.name, task.route.credential, 0
    ):
        sent = claimant.sent
        if claimant.task.id != task.id:
            if is_marked(sent, listed):
                raise _refuse(upstream_task_id, f"it carries the marker of {claimant.task.id}")
        elif is_timely(sent, listed, Policy()) is False:
            raise _refuse(upstream_task_id, "it was made at another time")
        elif contradicts(sent, listed, Policy()) and not decision.is_forced:
            raise _refuse(upstream_task_id, "it is of another shape (--force insists)")
    adopted = await adopt(runtime, task, upstream_task_id, listed.observation, "operator")
    if adopted is not None:
        await runtime.db.write(orphans.forget, upstream.name, upstream_task_id)
    return adopted


async def _refuse_taken(runtime: Runtime, task: Task, upstream_task_id: str) -> None:
    """Raise if the upstream's task belongs to another one here, or may."""
    route = task.route
    if await runtime.db.read(accounts.find_known, route.upstream, [upstream_task_id]):
        raise _refuse(upstream_task_id, "another task has it")
    found = await runtime.db.read(
        orphans.find, route.upstream, route.credential, [upstream_task_id]
    )
    owners = {orphan.task_id for orphan in found.values()} - {None, task.id}
    if owners:
        raise _refuse(upstream_task_id, "it is recorded as what came of another task")


def _refuse(upstream_task_id: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"The upstream's task {upstream_task_id} can't be this one's: {why}.")


async def _record(runtime: Runtime, actor: str, task: Task, decision: Decision) -> None:
    now_ms = runtime.clock.now_ms()
    forced = "by force" if decision.is_forced else None
    said = " ".join(filter(None, (decision.verdict.value, decision.upstream_task_id, forced)))
    detail = f"{said}: {mask(decision.reason)}" if decision.reason else said
    event = AuditEvent(
        runtime.ids.new("evt", now_ms), now_ms, actor, "task.resolve_requested", task.id, detail
    )
    await runtime.db.write(audit.add, event)
