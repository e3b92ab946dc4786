"""After a restore: what the backup does not know is looked for before new tasks are taken."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.domain.keys import Principal
from gateway.domain.projects import AuditEvent
from gateway.domain.tasks import TaskState
from gateway.errors import Reconciling, UpstreamUnavailable
from gateway.observability.logging import open_logger
from gateway.ports import ListedPage, Runtime
from gateway.runtime import DATABASE_FILE, open_runtime
from gateway.services import admin, restoring, sweeping
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import audit, backup, meta
from gateway.worker.loops import build_loops
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import (
    MODEL,
    SUCCESS,
    a_body,
    a_stranger,
    accept,
    events_in,
    find_task,
    lose,
    losses_of,
    orphans_of,
    pass_time,
    state_of,
)

OpenRestored = Callable[[], AbstractAsyncContextManager[Runtime]]


@pytest.fixture(autouse=True)
def _dated(upstream: FakeUpstream, clock: FakeClock) -> None:
    upstream.now_ms = clock.now_ms


@pytest.fixture
def save(config: Config, tmp_path: Path) -> Callable[[], None]:
    """Back the database up, as `backup` does."""

    def run() -> None:
        backup.back_up(
            config.data_dir / DATABASE_FILE, tmp_path / "saved.db", lock_timeout_s=1, replaces=True
        )

    return run


@pytest.fixture
def open_restored(
    config: Config,
    tmp_path: Path,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
) -> OpenRestored:
    """Put the backup into another data folder, and start there as `serve` does."""

    @asynccontextmanager
    async def run() -> AsyncIterator[Runtime]:
        folder = tmp_path / "restored"
        folder.mkdir()
        event = AuditEvent("evt_restored", clock.now, "cli", "database.restored", "saved.db")
        backup.restore(
            tmp_path / "saved.db", folder / DATABASE_FILE, event, stamp="x", lock_timeout_s=1
        )
        (folder / "pepper").write_bytes((config.data_dir / "pepper").read_bytes())
        async with open_runtime(
            config.model_copy(update={"data_dir": folder}),
            environ={"FAKE_CREDENTIAL": "upstream-canary-credential"},
            clock=clock,
            entropy=random.Random("another start").randbytes,
            log=open_logger("debug", "json", log_stream),
        ) as opened:
            restored = replace(opened, upstreams={upstream.name: upstream})
            await sweeping.announce(restored)
            await restoring.close_if_restored(restored)
            yield restored

    return run


async def test_tasks_that_the_backup_does_not_know_are_orphans(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    upstream.listed.append(a_stranger(1, clock.now - 86_400_000))
    kept = await accept(runtime, principal)
    clock.advance(60)
    save()
    clock.advance(600)
    gone = await accept(runtime, principal)
    upstream.shown |= {"up-1": SUCCESS, "up-2": SUCCESS}
    clock.advance(60)

    async with open_restored() as restored:
        assert restored.lifecycle.is_reconciling
        with pytest.raises(Reconciling) as caught:
            await submit_task(restored, principal, a_body(), "req")
        assert caught.value.public_code == "Reconciling"
        assert await restoring.compare_restored(restored)
        (orphan,) = await orphans_of(restored)
        assert (orphan.upstream_task_id, orphan.task_id) == (gone.upstream_task_id, None)
        # What was unfinished goes on, and new tasks are taken.
        clock.advance(120)
        await observe_due(restored, upstream, "default")
        assert await state_of(restored, kept.id) is TaskState.SUCCEEDED
        submitted = await submit_task(restored, principal, a_body(), "req")
        assert submitted.task.state is TaskState.QUEUED
        assert await restored.db.read(meta.find_restored) is None

    (event,) = events_in(log_stream, "reconciler.restore_compared")
    assert (event["listed_count"], event["orphans_count"]) == (3, 1)
    assert event["is_complete"] is True


@pytest.mark.parametrize("echoes", [True, False])
async def test_an_unknown_submission_hides_no_task_that_the_restore_lost(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    log_stream: io.StringIO,
    save: Callable[[], None],
    open_restored: OpenRestored,
    echoes: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """They are told of as undecided while they may be its, and recorded once they are not."""
    upstream.echoes = echoes
    await accept(runtime, principal)
    clock.advance(120)
    unknown_id = await lose(runtime, principal, upstream, is_made=False)
    save()
    clock.advance(20)
    lost = [await accept(runtime, principal) for _ in range(3)]
    upstream.shown |= {str(task.upstream_task_id): SUCCESS for task in lost}
    clock.advance(60)

    async with open_restored() as restored:
        await restoring.compare_restored(restored)
        (event,) = events_in(log_stream, "reconciler.restore_compared")
        await pass_time(restored, upstream, clock, 3 * 3600)
        orphans = await orphans_of(restored)
        losses = await losses_of(restored, unknown_id)

    assert (event["orphans_count"], event["undecided_count"]) == (0, 3)
    assert {orphan.upstream_task_id for orphan in orphans} == {
        task.upstream_task_id for task in lost
    }
    assert {orphan.tokens for orphan in orphans} == {50_000}
    # One that shows another seed is not what it made; without seeds, one of them may be.
    assert len(losses) == (0 if echoes else 1)


async def test_a_submission_that_the_backup_caught_in_flight_is_found(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        submitting = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        save()
        upstream.gate.set()
    task = submitting.result().task
    upstream.gate = None
    clock.advance(60)

    async with open_restored() as restored:
        assert await state_of(restored, task.id) is TaskState.RESERVED
        await restoring.compare_restored(restored)

        found = await find_task(restored, task.id)
        assert (found.state, found.upstream_task_id) == (TaskState.QUEUED, task.upstream_task_id)
        assert not await orphans_of(restored)


async def test_what_was_lost_before_the_backup_is_found_by_the_comparison(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    task_id = await lose(runtime, principal, upstream)
    save()
    clock.advance(3600)

    async with open_restored() as restored:
        await restoring.compare_restored(restored)

        assert await state_of(restored, task_id) is TaskState.QUEUED


async def test_while_the_upstream_does_not_answer_no_task_is_taken(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    await accept(runtime, principal)
    save()
    upstream.list_error = UpstreamUnavailable("No answer.")

    async with open_restored() as restored:
        with pytest.raises(UpstreamUnavailable):
            await restoring.compare_restored(restored)
        assert restored.lifecycle.is_reconciling
        assert await restored.db.read(meta.find_restored) is not None
        upstream.list_error = None
        assert await restoring.compare_restored(restored)
        assert not restored.lifecycle.is_reconciling


class Garbled(FakeUpstream):
    """An upstream whose list has one entry that can't be read."""

    is_garbled: bool = False

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        page = await super().list_tasks(
            credential, page_num=page_num, page_size=page_size, service_tier=service_tier
        )
        if self.is_garbled and page.items:
            return replace(page, items=page.items[1:])
        return page


@pytest.fixture
def garbled(upstream: FakeUpstream) -> Garbled:
    upstream.__class__ = Garbled
    assert isinstance(upstream, Garbled)
    return upstream


async def test_a_list_that_is_not_complete_is_no_comparison_and_keeps_the_gateway_closed(
    runtime: Runtime,
    principal: Principal,
    garbled: Garbled,
    clock: FakeClock,
    log_stream: io.StringIO,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    await accept(runtime, principal)
    clock.advance(60)
    save()
    clock.advance(600)
    gone = await accept(runtime, principal)
    garbled.is_garbled = True

    async with open_restored() as restored:
        assert not await restoring.compare_restored(restored)
        assert restored.lifecycle.is_reconciling
        assert await restored.db.read(meta.find_restored) is not None
        assert not await orphans_of(restored)

        garbled.is_garbled = False
        assert await restoring.compare_restored(restored)
        assert not restored.lifecycle.is_reconciling
        (orphan,) = await orphans_of(restored)
        assert orphan.upstream_task_id == gone.upstream_task_id

    first, second = events_in(log_stream, "reconciler.restore_compared")
    assert (first["is_complete"], second["is_complete"]) == (False, True)
    assert "restore --open" in str(first["reason"])


async def test_an_operator_opens_a_gateway_whose_upstream_is_gone_and_that_is_recorded(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    await accept(runtime, principal)
    save()
    upstream.list_error = UpstreamUnavailable("No answer.")

    async with open_restored() as restored:
        with pytest.raises(UpstreamUnavailable):
            await restoring.compare_restored(restored)

        assert await restoring.open_restored(restored, "cli")

        assert await restoring.compare_restored(restored)
        assert not restored.lifecycle.is_reconciling
        events = await restored.db.read(audit.list_events, 0, 10)
        assert [each.action for each in events][-1] == "database.opened"
        assert not await restoring.open_restored(restored, "cli")


async def test_what_operators_did_before_a_restore_was_marked_hides_no_lost_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await accept(runtime, principal)
    clock.advance(3600)
    # What pg_restore of an older dump leaves: no row tells of the upstream's task.
    made = await upstream.submit(
        "default",
        MODEL,
        upstream.submits[0].request,
        draft_task_id=None,
        attempt_id="of-the-lost-rows",
    )
    clock.advance(600)
    await admin.create_key(runtime, "cli", "default")
    clock.advance(30)
    event = AuditEvent("evt_marked", clock.now, "cli", "database.restored", "")
    await runtime.db.write(backup.mark_restored, event)
    clock.advance(5)
    await restoring.close_if_restored(runtime)

    assert await restoring.compare_restored(runtime)

    (orphan,) = await orphans_of(runtime)
    assert orphan.upstream_task_id == made.upstream_task_id


async def test_an_upstream_without_a_list_is_told_of_and_keeps_nothing_closed(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    log_stream: io.StringIO,
    save: Callable[[], None],
    open_restored: OpenRestored,
) -> None:
    await accept(runtime, principal)
    save()
    upstream.supports_list = False

    async with open_restored() as restored:
        assert await restoring.compare_restored(restored)
        assert not restored.lifecycle.is_reconciling

    (event,) = events_in(log_stream, "reconciler.restore_compared")
    assert "no list" in str(event["reason"])


async def test_a_second_restore_is_compared_as_well(
    runtime: Runtime,
    principal: Principal,
    save: Callable[[], None],
    open_restored: OpenRestored,
    clock: FakeClock,
) -> None:
    await accept(runtime, principal)
    save()

    async with open_restored() as restored:
        await restoring.compare_restored(restored)
        await restored.db.write(meta.set_restored, clock.now + 1)
        await restoring.close_if_restored(restored)
        assert restored.lifecycle.is_reconciling
        assert await restoring.compare_restored(restored)


async def test_another_process_that_compared_first_opens_this_one(
    runtime: Runtime, principal: Principal, save: Callable[[], None], open_restored: OpenRestored
) -> None:
    await accept(runtime, principal)
    save()

    async with open_restored() as restored:
        restored_at_ms = await restored.db.read(meta.find_restored)
        assert restored_at_ms is not None
        await restored.db.write(meta.clear_restored, restored_at_ms)
        assert await restoring.compare_restored(restored)
        assert not restored.lifecycle.is_reconciling


async def test_a_start_without_a_restore_reads_nothing(
    runtime: Runtime, upstream: FakeUpstream
) -> None:
    await restoring.close_if_restored(runtime)

    assert await restoring.compare_restored(runtime)
    assert not runtime.lifecycle.is_reconciling
    assert not upstream.pages


async def test_the_loops_reconcile_each_credential_and_compare_what_was_restored(
    runtime: Runtime,
) -> None:
    names = {loop.name for loop in build_loops(runtime)}

    assert {"reconcile:fake:default", "restore"} <= names
