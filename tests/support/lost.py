"""Submissions whose answer is lost, and what the books say of them."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace

from gateway.config import Config
from gateway.domain.attempts import ListedTask
from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, Task, TaskState
from gateway.errors import UpstreamAmbiguous
from gateway.ports import Runtime
from gateway.services.reconciling import reconcile_due
from gateway.services.submission import submit_task
from gateway.storage import ledger, orphans, tasks
from gateway.storage.orphans import StoredOrphan
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream

MODEL = "doubao-seedance-1-0-pro-250528"
SUCCESS = Observation(
    "succeeded",
    {
        "content": {"video_url": "https://video.example/1.mp4"},
        "usage": {"completion_tokens": 50_000, "total_tokens": 50_000},
        "duration": 5,
    },
)


def a_body(text: str = "a fox at dusk", **fields: object) -> dict[str, object]:
    return {
        "model": MODEL,
        "content": [{"type": "text", "text": text}],
        "resolution": "480p",
        "duration": 5,
        **fields,
    }


async def accept(runtime: Runtime, principal: Principal, **fields: object) -> Task:
    """Submit a task that the upstream takes: what its list has to show from then on."""
    submitted = await submit_task(runtime, principal, a_body("a heron", **fields), "req")
    assert submitted.task.state is TaskState.QUEUED
    return submitted.task


async def lose(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    *,
    is_made: bool = True,
    **fields: object,
) -> str:
    """Submit a task whose answer is lost, whether or not the upstream made it; return its id."""
    upstream.makes_lost_tasks = is_made
    upstream.submit_errors = [UpstreamAmbiguous("The connection closed without an answer.")]
    submitted = await submit_task(runtime, principal, a_body("a fox at dusk", **fields), "req")
    assert submitted.task.state is TaskState.UNKNOWN
    return submitted.task.id


async def pass_time(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock, duration_s: float
) -> None:
    """Let the reconciler run through so much time, a step each half minute."""
    end_ms = clock.now + int(duration_s * 1000)
    while clock.now < end_ms:
        await reconcile_due(runtime, upstream, "default")
        clock.advance(min(30.0, (end_ms - clock.now) / 1000))
    await reconcile_due(runtime, upstream, "default")


def tuned(
    runtime: Runtime,
    *,
    markers: dict[str, object] | None = None,
    submit: dict[str, object] | None = None,
    reconciler: dict[str, object] | None = None,
    upstream: dict[str, object] | None = None,
) -> Runtime:
    """Return the runtime with other settings of the reconciler and of its one upstream."""
    config = runtime.config
    first = config.upstreams[0]
    changed = first.model_copy(
        update={
            "markers": first.markers.model_copy(update=markers or {}),
            **(upstream or {}),
        }
    )
    copied: Config = config.model_copy(
        update={
            "upstreams": (changed,),
            "submit": config.submit.model_copy(update=submit or {}),
            "reconciler": config.reconciler.model_copy(update=reconciler or {}),
        }
    )
    return replace(runtime, config=copied)


def a_stranger(number: int, created_at_ms: int, **fields: object) -> ListedTask:
    """Return a task that other software made."""
    task = ListedTask(
        f"foreign-{number}",
        created_at_ms // 1000 * 1000,
        model="doubao-seedance-1-0-lite-t2v-250428",
        status="succeeded",
        resolution="1080p",
        ratio="1:1",
        duration_s=10,
        observation=Observation("succeeded", {}),
    )
    return replace(task, **fields)  # type: ignore[arg-type]


async def find_task(runtime: Runtime, task_id: str) -> Task:
    stored = await runtime.db.read(tasks.find, task_id)
    assert stored is not None
    return stored.task


async def state_of(runtime: Runtime, task_id: str) -> TaskState:
    return (await find_task(runtime, task_id)).state


async def evidence_of(runtime: Runtime, task_id: str) -> tuple[EntryKind, EvidenceKind] | None:
    """Return how the hold ended and why; None while it is open."""
    for entry in await runtime.db.read(ledger.list_entries, task_id):
        if entry.kind in {EntryKind.SETTLE, EntryKind.RELEASE}:
            assert entry.evidence is not None
            return entry.kind, entry.evidence.kind
    return None


async def losses_of(runtime: Runtime, task_id: str) -> Sequence[int]:
    """Return what was booked as the organization's loss for a task."""
    entries = await runtime.db.read(ledger.list_entries, task_id)
    return [entry.cost_micros for entry in entries if entry.kind is EntryKind.LOSS]


async def orphans_of(runtime: Runtime) -> Sequence[StoredOrphan]:
    return await runtime.db.read(orphans.list_newest, 100)


def events_in(log: io.StringIO, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in lines if line["event"] == name]
