"""Reading an upstream's whole list, as far back as it is asked for.

Pages shift while they are read, an upstream may send shorter ones than were asked for, and nothing
is promised of their order. So a reading goes one page beyond what is old enough, goes to the end
where the order is not newest first, and says of itself whether it is complete.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.domain.attempts import ListedTask
from gateway.domain.likeness import DEFAULT_TIER
from gateway.domain.reconciling import Pass
from gateway.domain.tasks import Observation
from gateway.ports import ListedPage, Runtime, Upstream
from gateway.services.patience import ask_patiently
from gateway.storage import accounts

_DISORDER_MS: Final = 60_000
_NOTHING: Final = Observation("", {})


class Reading:
    """What one reading has gathered. Of tasks that are ours, the id and the date alone."""

    def __init__(self) -> None:
        self.items: dict[str, ListedTask] = {}
        self.known_ids: set[str] = set()
        self.is_whole = True
        self.began_at_ms = self.ended_at_ms = 0

    def as_pass(self) -> Pass:
        return Pass(tuple(self.items.values()), self.began_at_ms, self.ended_at_ms, self.is_whole)


async def read_list(
    runtime: Runtime, upstream: Upstream, credential: str, tiers: Collection[str], start_ms: int
) -> Reading:
    """Read the list of a credential's account back to `start_ms`, for each of the service tiers.

    Raises: UpstreamFault.
    """
    reading = Reading()
    reading.began_at_ms = runtime.clock.now_ms()
    for tier in sorted(tiers):
        asked = None if tier == DEFAULT_TIER else tier
        is_complete = await _read_tier(runtime, upstream, credential, asked, start_ms, reading)
        reading.is_whole &= is_complete
    reading.ended_at_ms = runtime.clock.now_ms()
    return reading


async def _read_tier(
    runtime: Runtime,
    upstream: Upstream,
    credential: str,
    tier: str | None,
    start_ms: int,
    reading: Reading,
) -> bool:
    """Read page after page; return whether that was all of the list that matters."""
    settings = runtime.config.reconciler
    page_size = settings.page_size
    order = _Order()
    received_count = 0
    seen_ids: set[str] = set()
    for page_num in range(1, settings.pages_max + 1):
        ask = partial(
            upstream.list_tasks,
            credential,
            page_num=page_num,
            page_size=page_size,
            service_tier=tier,
        )
        page = await ask_patiently(runtime, ask)
        received_count += page.received_count
        reading.is_whole &= page.is_whole
        fresh = [task for task in page.items if task.upstream_task_id not in seen_ids]
        seen_ids.update(task.upstream_task_id for task in fresh)
        await _gather(runtime, upstream, page, reading)
        is_last = page.received_count == 0
        if page.total is not None and received_count >= page.total:
            is_last = True
        if is_last or (order.add(page.items) and page_num > 1 and order.is_before(start_ms)):
            return True
        if page.items and not fresh:  # the upstream heeds no page number
            return False
        if page_num == 1:  # pages of another size than was asked for would be counted by it
            page_size = min(page_size, page.received_count)
    return False


async def _gather(runtime: Runtime, upstream: Upstream, page: ListedPage, reading: Reading) -> None:
    ids = [task.upstream_task_id for task in page.items]
    # What is known once stays known; what is not is looked up again after the list.
    known = await runtime.db.read(accounts.find_known, upstream.name, ids)
    reading.known_ids |= known
    for task in page.items:
        kept = replace(task, observation=_NOTHING) if task.upstream_task_id in known else task
        reading.items[task.upstream_task_id] = kept


class _Order:
    """Whether pages come newest first, and how far back the last one goes."""

    def __init__(self) -> None:
        self._is_newest_first = True
        self._oldest_ms: int | None = None
        self._newest_of_page_ms: int | None = None

    def add(self, items: Sequence[ListedTask]) -> bool:
        """Take the next page; False once the order is not newest first."""
        self._newest_of_page_ms = None
        for task in items:
            created_at_ms = task.created_at_ms
            if created_at_ms is None:  # it may be of any age
                self._is_newest_first = False
                break
            if self._oldest_ms is not None and created_at_ms > self._oldest_ms + _DISORDER_MS:
                self._is_newest_first = False
            self._oldest_ms = min(created_at_ms, self._oldest_ms or created_at_ms)
            self._newest_of_page_ms = max(created_at_ms, self._newest_of_page_ms or 0)
        return self._is_newest_first

    def is_before(self, start_ms: int) -> bool:
        """Whether all of the last page is older."""
        return self._newest_of_page_ms is not None and self._newest_of_page_ms < start_ms
