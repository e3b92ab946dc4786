"""What an upstream shows of a task that an operator is about to decide of without it.

One look: at the orphans on record here, then at the upstream task by its id or, where none is
known, at the list by the submission's marker, as far back as the submission goes. Finding nothing
proves nothing; it is the operator's word that counts then.
"""

from dataclasses import dataclass
from typing import Final

from gateway.domain.attempts import Attempt, ListedTask
from gateway.domain.likeness import Policy, Sent, is_marked, is_timely, window_ms
from gateway.domain.tasks import Event, Task, event_of
from gateway.errors import UpstreamFault
from gateway.ports import Runtime, Upstream
from gateway.services.holding import has_ended
from gateway.services.judging import LISTED_MS
from gateway.services.listing_passes import Reading, read_list
from gateway.services.observing import upstream_of
from gateway.storage import attempts, orphans

_LISTED_DAYS: Final = LISTED_MS // 86_400_000


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look came to: an upstream task, nothing, or no look that says anything."""

    upstream_task_id: str | None = None
    """The upstream task that came of the submission, and made a video or may yet."""
    blind: str = ""
    """Why a task that came of it could not have been seen; empty if it could."""


async def look_for(runtime: Runtime, task: Task) -> Sight:
    """Return what can be seen of what came of a task's submission."""
    for orphan in await runtime.db.read(orphans.list_of_task, task.id):
        if _may_be_billed(orphan.status):
            return Sight(orphan.upstream_task_id)
    try:
        upstream = upstream_of(runtime, task)
        if task.upstream_task_id is not None:
            return await _look_at(upstream, task, task.upstream_task_id)
        attempt = (await runtime.db.read(attempts.find_many, [task.id])).get(task.id)
        return await _look_through(runtime, upstream, task, attempt)
    except UpstreamFault as error:
        return Sight(blind=error.message.removesuffix("."))


async def _look_at(upstream: Upstream, task: Task, upstream_task_id: str) -> Sight:
    """Look at a task that was accepted, alone and in the list: one may deny what the other has."""
    credential = task.route.credential
    found = await upstream.observe(credential, upstream_task_id)
    if found is None and upstream.supports_list:
        found = (await upstream.observe_many(credential, [upstream_task_id])).get(upstream_task_id)
    is_there = found is not None and _may_be_billed(found.status)
    return Sight(upstream_task_id if is_there else None)


async def _look_through(
    runtime: Runtime, upstream: Upstream, task: Task, attempt: Attempt | None
) -> Sight:
    """Look for the submission's marker in the list."""
    if not upstream.supports_list:
        return Sight(blind="the upstream has no list")
    if attempt is None or not _has_marker(attempt):
        return Sight(blind="the submission carried no marker")
    sent = Sent(attempt, task.submit_deadline_at_ms)
    start_ms = window_ms(sent, Policy())[0]
    tiers = {task.service_tier}
    reading = await read_list(runtime, upstream, task.route.credential, tiers, start_ms)
    for upstream_task_id in reading.items.keys() - reading.known_ids:
        if _came_of(sent, reading.items[upstream_task_id]):
            return Sight(upstream_task_id)
    return Sight(blind=_find_doubt(reading, start_ms, task, attempt))


def _has_marker(attempt: Attempt) -> bool:
    markers = attempt.markers
    return markers.seed is not None or markers.safety_identifier is not None


def _came_of(sent: Sent, listed: ListedTask) -> bool:
    return is_marked(sent, listed) and is_timely(sent, listed, Policy()) is not False


def _find_doubt(reading: Reading, start_ms: int, task: Task, attempt: Attempt) -> str:
    """Return why what was read need not show the task; empty if it is to be shown."""
    if start_ms < reading.began_at_ms - LISTED_MS:
        return f"lists go back {_LISTED_DAYS} days, and it is older"
    if not reading.is_whole:
        return "the upstream's list could not be read whole"
    if attempt.claimed_task_id is not None:
        return (
            f"it is not listed, but its callback address was called for {attempt.claimed_task_id}"
        )
    if task.is_called_back:
        return "it is not listed, but its callback address was called"
    return ""


def _may_be_billed(status: str) -> bool:
    """Whether a task of this status made a video, or may yet."""
    return not has_ended(status) or event_of(status) is Event.SUCCEEDED
