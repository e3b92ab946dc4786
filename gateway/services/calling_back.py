"""What is done about callbacks of upstreams, after they were answered.

A callback moves nothing. For a task that is followed it brings the next look forward; for a lost
submission it leaves a claim, which one read of the claimed task verifies. What a callback can't do
because it was dropped, or its process died, the observer and the reconciler do later.
"""

from dataclasses import replace
from typing import Final

from gateway.domain.attempts import ListedTask
from gateway.domain.callbacks import Claim, Hint, hash_token, judge, read_claim
from gateway.domain.likeness import Sent, Standing, contradicts, is_marked, is_timely, is_too_early
from gateway.domain.tasks import OBSERVED, Task, TaskState
from gateway.errors import StorageUnavailable, UpstreamFault
from gateway.ports import Runtime
from gateway.services.adopting import adopt
from gateway.services.judging import policy_of
from gateway.services.late_orphans import record_late
from gateway.services.observing import schedule_look, upstream_of
from gateway.storage import accounts, callbacks, meta, tasks
from gateway.storage.callbacks import Called

_CLAIMS_MAX: Final = 100


async def take_callback(runtime: Runtime, token: str, body: bytes) -> None:
    """Do what a callback is good for. Never raises for what it says, nor for a store in trouble."""
    try:
        called = await runtime.db.read(callbacks.find_called, hash_token(token))
        if called is None:
            runtime.metrics.callbacks.add("unknown")
            return
        hint = await _heed(runtime, called, read_claim(body))
    except StorageUnavailable:
        runtime.metrics.callbacks.add("failed")
        return
    runtime.metrics.callbacks.add(hint.value)
    task = called.task
    runtime.log.info(
        "callback.received",
        task_id=task.id,
        upstream=task.route.upstream,
        state=task.state.value,
        hint=hint.value,
    )


async def verify_claims(runtime: Runtime) -> int:
    """Ask upstreams for the tasks that callbacks claim to be of lost submissions; return how many.

    Raises: the last UpstreamFault, if there was one: what it concerns is asked for again.
    """
    claims = await runtime.db.read(callbacks.list_claims, _CLAIMS_MAX)
    fault: UpstreamFault | None = None
    for called in claims:
        if called.task.route.upstream not in runtime.upstreams:
            continue  # it is configured no more, as was logged at the start
        try:
            await _verify(runtime, called)
        except UpstreamFault as error:
            fault = error
    if fault is not None:
        raise fault
    return len(claims)


async def _heed(runtime: Runtime, called: Called, claim: Claim) -> Hint:
    task = called.task
    hint = judge(task, claim)
    if hint is Hint.NEWS:
        await _hasten_look(runtime, task)
    elif task.state in OBSERVED:
        await _rely_on_callbacks(runtime, task)
    elif task.upstream_task_id is None and task.state is not TaskState.REJECTED:
        is_new = claim.upstream_task_id is not None and called.attempt.claimed_task_id is None
        if is_new or not task.is_called_back:
            await runtime.db.write(
                callbacks.note_call, task.id, task.updated_at_ms, claim.upstream_task_id
            )
    return hint


async def _hasten_look(runtime: Runtime, task: Task) -> None:
    """Have the task looked at now; soon, if a callback had that done a moment ago."""
    now_ms = runtime.clock.now_ms()
    look_at_ms = now_ms
    if task.called_back_at_ms is not None and task.is_news_due:
        settings = runtime.config.observer
        pause_ms = int(settings.interval_s_min * 1000 / settings.time_scale)
        look_at_ms = max(now_ms, min(task.called_back_at_ms, now_ms) + pause_ms)
        if task.next_poll_at_ms is not None and task.next_poll_at_ms <= look_at_ms:
            return
    # At least a moment after the last move: that is how news that are due are told.
    called_at_ms = max(now_ms, task.updated_at_ms + 1)
    await runtime.db.write(callbacks.hasten_look, task.id, called_at_ms, look_at_ms)


async def _rely_on_callbacks(runtime: Runtime, task: Task) -> None:
    """Leave the task alone for longer, now that its callbacks are seen to come."""
    if task.is_called_back:
        return
    called_at_ms = task.updated_at_ms  # nothing is told that the last move did not tell
    relied_on = replace(task, called_back_at_ms=called_at_ms)
    look_at_ms = schedule_look(runtime, relied_on).next_poll_at_ms
    assert look_at_ms is not None  # noqa: S101 - the state says so
    await runtime.db.write(callbacks.put_off_look, task, called_at_ms, look_at_ms)


async def _verify(runtime: Runtime, called: Called) -> None:
    """Read the claimed task once; adopt it, unless something speaks against it."""
    task, claimed_id = called.task, called.attempt.claimed_task_id
    assert claimed_id is not None  # noqa: S101 - it was asked for
    reason = await _find_owner(runtime, task, claimed_id)
    listed = None
    if not reason:
        listed = await upstream_of(runtime, task).find_task(task.route.credential, claimed_id)
        reason = await _find_objection(runtime, called, listed)
    if reason or listed is None:
        runtime.log.warning(
            "callback.refuted",
            task_id=task.id,
            upstream=task.route.upstream,
            upstream_task_id=claimed_id,
            reason=reason,
        )
    elif task.state is TaskState.UNKNOWN:
        await adopt(runtime, task, claimed_id, listed.observation, "callback")
    else:
        await record_late(runtime, task, listed)
    await runtime.db.write(callbacks.drop_claim, task.id, claimed_id)
    runtime.metrics.callbacks.add("refuted" if reason else "verified")


async def _find_owner(runtime: Runtime, task: Task, claimed_id: str) -> str:
    route = task.route
    owner = await runtime.db.read(
        tasks.find_by_upstream_id, route.upstream, route.credential, claimed_id
    )
    return "" if owner is None else f"It belongs to the task {owner.id}."


async def _find_objection(runtime: Runtime, called: Called, listed: ListedTask | None) -> str:
    """Return why the task that was read can't have come of the attempt; "" if it can."""
    if listed is None or not listed.status:
        return "The upstream shows no such task."
    task, route = called.task, called.task.route
    sent = Sent(called.attempt, task.submit_deadline_at_ms, Standing.LOST, is_called_back=True)
    facts = await runtime.db.read(meta.find_of_account, route.upstream, route.credential)
    policy = policy_of(runtime, route.upstream, facts, runtime.clock.now_ms())
    if contradicts(sent, listed, policy):
        return "It is of another shape."
    if is_marked(sent, listed) and not is_too_early(sent, listed, policy):  # however late
        return ""
    if is_timely(sent, listed, policy) is False:
        return "It was made at another time."
    rivals = await runtime.db.read(
        accounts.list_claimants,
        route.upstream,
        route.credential,
        runtime.clock.now_ms() - policy.list_span_ms,
    )
    if any(is_marked(rival.sent, listed) for rival in rivals):
        return "It carries the marker of another submission."
    return ""
