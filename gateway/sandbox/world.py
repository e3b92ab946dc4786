"""The simulated upstream itself: accounts, tasks and the clock, without HTTP."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.sandbox.callbacks import Callbacks
from gateway.sandbox.clock import SandboxClock
from gateway.sandbox.draws import Draws
from gateway.sandbox.errors import VendorError
from gateway.sandbox.faults import Faults
from gateway.sandbox.groups import open_group
from gateway.sandbox.lanes import Booking, Lane
from gateway.sandbox.limits import RateLimits
from gateway.sandbox.links import Links
from gateway.sandbox.magic import Magic
from gateway.sandbox.requests import Order
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.store import (
    SELECT_TASKS,
    STATUS_SQL,
    Statement,
    Store,
    insert_task,
    read_task,
    save_meta,
)
from gateway.sandbox.tasks import (
    CANCELLED_RETENTION_MS,
    RETENTION_MS,
    Spec,
    Status,
    Task,
    make_spec,
    outcome_of,
)
from gateway.sandbox.views import View

DEFAULT_ACCOUNT: Final = "default"
PURGE_EVERY: Final = 1_000
COUNTS_SAVED_EVERY_S: Final = 1.0
_READS: Final = ("get", "list", "delete")
VENDOR_TIME: Final = timedelta(hours=8)
"""The stamps in ids are UTC+8 on both clouds."""

_VISIBLE_SQL: Final = (
    "account = :account AND is_deleted = 0 AND is_vanishing = 0"
    " AND created_ms > :oldest AND created_ms <= :newest"
    " AND (cancelled_ms IS NULL OR cancelled_ms > :cancelled_after)"
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. Empty texts and no ids mean that a filter is not used."""

    number: int
    size: int
    status: str
    model: str
    service_tier: str
    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Submission:
    """What a create needs besides the order: who, how it was asked, what is forced."""

    account: str
    order: Order
    magic: Magic
    draft: Spec | None
    request_id: str
    request_hash: str
    echo: str


class World:
    """Everything that the simulated upstream knows. Open it with `open_world`."""

    def __init__(self, settings: SandboxSettings, store: Store, clock: SandboxClock) -> None:
        self.settings = settings
        self.store = store
        self.clock = clock
        self.faults = Faults(settings.seed)
        self.rates = RateLimits()
        secret = store.load_meta("secret") or secrets.token_hex(32)
        links = Links(settings.public_url.rstrip("/"), bytes.fromhex(secret))
        self.view = View(settings, clock, links)
        self.callbacks = Callbacks(settings, store, clock, self.faults, self.render)
        self._secret = secret
        self._ordinal = store.last_ordinal()
        self._lanes: dict[str, dict[str, Lane]] = {}
        counts = store.load_meta("reads")
        self._reads: dict[str, int] = json.loads(counts) if counts else dict.fromkeys(_READS, 0)
        self._saved_reads = dict(self._reads)
        self._request_count = 0

    def set_base_url(self, url: str) -> None:
        """Name the address for links, once the port is known, unless the settings name one."""
        if not self.settings.public_url:
            self.view = replace(self.view, links=replace(self.view.links, base_url=url))

    def render(self, task: Task, at: int) -> dict[str, object]:
        """Return the task object as it is at a point of the timeline."""
        return self.view.render(task, at)

    # Accounts and counts.

    def find_account(self, authorization: str | None) -> str:
        """Return the account of an `Authorization` header.

        Raises:
            VendorError: 401, one and the same for every reason.
        """
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise VendorError("AuthenticationError")
        if not self.settings.keys:
            return DEFAULT_ACCOUNT
        account = self.settings.keys.get(key)
        if account is None:
            raise VendorError("AuthenticationError")
        return account

    def count_read(self, operation: str) -> None:
        if operation in self._reads:
            self._reads[operation] += 1

    def new_request_id(self) -> str:
        """Return the vendor's shape: 02, the milliseconds, then 38 hexadecimal digits."""
        self._request_count += 1
        now_ms = self.clock.now_ms()
        return f"02{now_ms:013d}{self._request_count:06x}{secrets.token_hex(16)}"

    # Tasks.

    def check_queue(self, account: str) -> None:
        """Refuse a create that would wait behind too many.

        Raises:
            VendorError: 429 QuotaExceeded.
        """
        limit = self.settings.limits.queued_max
        if limit is None:
            return
        at = self.clock.now_at()
        lanes = self._lanes.get(account, {}).values()
        if sum(lane.queued_count(at) for lane in lanes) >= limit:
            raise VendorError("QuotaExceeded")

    async def create(self, submission: Submission) -> Task:
        """Return a new task. It is on disk."""
        self._ordinal += 1
        order, account = submission.order, submission.account
        draws = Draws(self.settings.seed, self._ordinal)
        spec = make_spec(
            order,
            submission.magic,
            draws,
            submission.draft,
            request_id=submission.request_id,
            raw_hash=submission.request_hash,
        )
        created_ms = self.clock.now_ms()
        created_at = self.clock.at_of(created_ms)
        stamp = datetime.fromtimestamp(created_ms / 1000, UTC) + VENDOR_TIME
        task_id = f"cgt-{stamp:%Y%m%d%H%M%S}-{draws.id_suffix()}"
        lane = order.family.name + (":4k" if order.resolution == "4k" else "")
        booking = self._lane(account, lane).admit(
            Booking(
                ordinal=self._ordinal,
                task_id=task_id,
                ready_at=created_at + spec.queue_ms,
                run_ms=spec.run_ms,
                expire_at=created_at + spec.expires_after_s * 1000,
                is_held=spec.is_held,
            )
        )
        task = Task(
            ordinal=self._ordinal,
            id=task_id,
            account=account,
            lane=lane,
            endpoint=order.endpoint,
            model=order.model,
            service_tier=order.service_tier,
            created_ms=created_ms,
            created_at=created_at,
            start_at=booking.start_at,
            end_at=booking.end_at,
            expire_at=booking.expire_at,
            outcome=outcome_of(spec).value,
            cancelled_ms=None,
            is_deleted=False,
            spec=spec,
        )
        await self.store.write(insert_task(task, submission.echo), *self._purge())
        self.callbacks.expect(task)
        return task

    def find(self, account: str, task_id: str) -> Task:
        """Return a task that the account may see.

        Raises:
            VendorError: 404; unknown, deleted, too old, or another account's.
        """
        task = self.store.find(task_id)
        if task is None or task.account != account or not task.is_visible(self.clock.now_ms()):
            raise VendorError("NotFound.TaskID", "The specified task is not found", param="task_id")
        return task

    async def remove(self, account: str, task_id: str) -> None:
        """Cancel a queued task, or forget a finished one.

        Raises:
            VendorError: 409 for a running or cancelled one, 404 for an unknown one.
        """
        task = self.find(account, task_id)
        at = self.clock.now_at()
        match task.status(at):
            case Status.RUNNING:
                raise VendorError("InvalidAction.RunningTaskDeletion")
            case Status.CANCELLED:
                raise VendorError("InvalidAction.CancelledTaskDeletion")
            case Status.QUEUED:
                await self._cancel(task, at)
            case _:
                gone = await self.store.write(
                    ("UPDATE tasks SET is_deleted = 1 WHERE id = ? AND is_deleted = 0", (task_id,))
                )
                if not gone:
                    self.find(account, task_id)

    async def list_page(self, account: str, page: Page) -> tuple[int, list[Task]]:
        """Return (how many tasks match, those on the page), newest first."""
        now_ms = self.clock.now_ms()
        params: dict[str, object] = {
            "account": account,
            "oldest": now_ms - RETENTION_MS,
            "newest": now_ms - self.settings.list_lag_s * 1000,
            "cancelled_after": now_ms - CANCELLED_RETENTION_MS,
            "at": self.clock.now_at(),
            "limit": page.size,
            "offset": (page.number - 1) * page.size,
        }
        where = _VISIBLE_SQL
        if page.status:
            where += f" AND {STATUS_SQL} = :status"
            params["status"] = page.status
        if page.model:
            where += " AND (endpoint = :model OR model = :model)"
            params["model"] = page.model
        if page.service_tier:
            where += " AND service_tier = :tier"
            params["tier"] = page.service_tier
        if page.task_ids:
            names = [f"id{index}" for index in range(len(page.task_ids))]
            where += f" AND id IN ({', '.join(':' + name for name in names)})"
            params |= dict(zip(names, page.task_ids, strict=True))
        # The clauses are constants; everything from outside is a parameter.
        count_sql = f"SELECT count(*) FROM tasks WHERE {where}"  # noqa: S608
        rows_sql = f"{SELECT_TASKS} WHERE {where} ORDER BY ordinal DESC LIMIT :limit OFFSET :offset"
        ((total,),) = await self.store.query(count_sql, params)
        rows = await self.store.query(rows_sql, params)
        return int(str(total)), [read_task(row) for row in rows]

    async def read_truth(self) -> dict[str, object]:
        """Return what really happened, for tests: every task made, every request received."""
        await self._save_counts()
        rows = await self.store.query(f"{SELECT_TASKS} ORDER BY ordinal", {})
        at = self.clock.now_at()
        return {
            "creates": self._ordinal,
            "reads": dict(self._reads),
            "callbacks": self.callbacks.describe(),
            "faults": self.faults.describe(),
            "tasks": [self._describe(read_task(row), at) for row in rows],
        }

    async def set_clock(self, *, advance_s: float | None, scale: float | None) -> None:
        """Change the clock, durably, and let everything that waits for it look again."""
        if scale is not None:
            self.clock.set_scale(scale)
        if advance_s is not None:
            self.clock.advance(advance_s)
        await self.store.write(save_meta("clock", self.clock.saved()))
        self.callbacks.wake()

    # Opening and closing.

    async def restore(self) -> None:
        """Take up the tasks that were alive when the last process ended."""
        await self.store.write(
            save_meta("secret", self._secret), save_meta("clock", self.clock.saved())
        )
        bookings: dict[tuple[str, str], list[Booking]] = {}
        for task in self.store.load_live(self.clock.now_at()):
            booking = Booking(
                ordinal=task.ordinal,
                task_id=task.id,
                ready_at=task.created_at + task.spec.queue_ms,
                run_ms=task.spec.run_ms,
                expire_at=task.expire_at,
                is_held=task.spec.is_held,
                start_at=task.start_at,
                end_at=task.end_at,
            )
            bookings.setdefault((task.account, task.lane), []).append(booking)
        for (account, lane), live in bookings.items():
            self._lane(account, lane).restore(live)
        self.callbacks.restore()

    async def keep_counts(self) -> None:
        """Save the counts of reads now and then; a kill loses those of the last second."""
        while True:
            await asyncio.sleep(COUNTS_SAVED_EVERY_S)
            await self._save_counts()

    async def close(self) -> None:
        await self._save_counts()
        await self.store.close()

    async def _save_counts(self) -> None:
        if self._reads != self._saved_reads:
            self._saved_reads = dict(self._reads)
            await self.store.write(save_meta("reads", json.dumps(self._reads)))

    async def _cancel(self, task: Task, at: int) -> None:
        changed = self._lane(task.account, task.lane).cancel(task.id, at)
        plans: list[Statement] = [
            (
                "UPDATE tasks SET start_at = ?, end_at = ? WHERE id = ?",
                (each.start_at, each.end_at, each.task_id),
            )
            for each in changed
        ]
        cancel: Statement = (
            "UPDATE tasks SET cancelled_ms = ? WHERE id = ? AND cancelled_ms IS NULL",
            (self.clock.now_ms(), task.id),
        )
        if not await self.store.write(*plans, cancel):
            raise VendorError("InvalidAction.CancelledTaskDeletion")
        self.callbacks.expect_again(each.task_id for each in changed)

    def _lane(self, account: str, name: str) -> Lane:
        lanes = self._lanes.setdefault(account, {})
        if name not in lanes:
            limits = self.settings.limits
            is_4k = name.endswith(":4k")
            lanes[name] = Lane(limits.concurrency_4k if is_4k else limits.concurrency)
        return lanes[name]

    def _purge(self) -> list[Statement]:
        if self._ordinal % PURGE_EVERY:
            return []
        oldest = self._ordinal - self.settings.tasks_kept_max
        return [("DELETE FROM tasks WHERE ordinal <= ?", (oldest,))]

    def _describe(self, task: Task, at: int) -> dict[str, object]:
        status, spec = task.status(at), task.spec
        is_made = status is Status.SUCCEEDED
        return {
            "id": task.id,
            "model": task.model,
            "endpoint": task.endpoint,
            "account": task.account,
            "status": status.value,
            "created_at": task.created_ms // 1000,
            "created_ms": task.created_ms,
            "updated_at": self.view.updated_ms(task, at) // 1000,
            "completion_tokens": spec.tokens if is_made else 0,
            "billed": is_made,
            "deleted": task.is_deleted,
            "duration": spec.duration_s,
            "frames": spec.frames,
            "resolution": spec.resolution,
            "ratio": spec.ratio,
            "width": spec.width,
            "height": spec.height,
            "service_tier": task.service_tier,
            "seed": spec.seed,
            "asked_seed": spec.asked_seed,
            "safety_identifier": spec.safety_identifier,
            "execution_expires_after": spec.expires_after_s,
            "callback_url": spec.callback_url,
            "draft": spec.draft,
            "draft_task_id": spec.draft_task_id,
            "request_id": spec.request_id,
            "request_hash": spec.request_hash,
            "prompt_hash": spec.prompt_hash,
        }


@asynccontextmanager
async def open_world(settings: SandboxSettings) -> AsyncIterator[World]:
    """Open the state in the data folder and run what belongs to it until the end of the block."""
    store = Store(settings.data_dir)
    clock = SandboxClock(settings.time_scale, store.load_meta("clock"))
    world = World(settings, store, clock)
    await world.restore()
    try:
        async with open_group() as group:
            loops = [
                group.create_task(world.keep_counts()),
                group.create_task(world.callbacks.run(group)),
            ]
            try:
                yield world
            finally:
                for loop in loops:
                    loop.cancel()
                world.callbacks.stop()
    finally:
        await world.close()
