"""Random troubles of an account: whatever is lost, each upstream task is somebody's, or an orphan.

A failure names its seed; `-k "seed-17-"` runs it again.
"""

import random
from dataclasses import dataclass, field, replace

import pytest

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation, TaskState
from gateway.errors import UpstreamAmbiguous
from gateway.ports import Runtime
from gateway.services.reconciling import reconcile_due
from gateway.services.submission import submit_task
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream, Submitted
from tests.support.lost import (
    SUCCESS,
    a_body,
    a_stranger,
    accept,
    evidence_of,
    find_task,
    orphans_of,
    tuned,
)

SEEDS = 5
SEEDS_LONG = 200
STEP_S = 30.0
HOURS = 4
_PROVED_ABSENT = (EntryKind.RELEASE, EvidenceKind.ABSENT)


@dataclass
class Story:
    """What happens to one account."""

    rng: random.Random
    runtime: Runtime
    upstream: FakeUpstream
    clock: FakeClock
    projects: list[Principal]
    lag_s: float = 0.0
    partial: bool = False
    lost: dict[str, Submitted] = field(default_factory=dict)
    """By our id: the submits whose answer was lost."""
    makers: dict[str, str] = field(default_factory=dict)
    """Upstream id -> our id of the submit that it came of."""
    late: list[tuple[int, str]] = field(default_factory=list)
    """When a task is yet to be made, and of which submit."""
    ends: dict[str, int] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    """Our id -> its project."""

    async def lose(self) -> None:
        rng, upstream = self.rng, self.upstream
        fields: dict[str, object] = {"seed": 7} if rng.random() < 0.3 else {}
        if rng.random() < 0.3:
            fields["ratio"] = "1:1"
        upstream.submit_errors = [UpstreamAmbiguous("The connection closed without an answer.")]
        body = a_body(rng.choice(("a fox", "a hare")), **fields)
        submitted = await submit_task(self.runtime, rng.choice(self.projects), body, "req")
        task_id = submitted.task.id
        self.lost[task_id] = upstream.submits[-1]
        fate = rng.choice(("made", "made", "late", "never"))
        if fate == "made":
            self.make(task_id)
        elif fate == "late":
            self.late.append((self.clock.now + rng.randrange(900_000), task_id))

    def make(self, task_id: str) -> None:
        upstream_task_id = f"made-{len(self.makers)}"
        self.upstream.make(self.lost[task_id], upstream_task_id)
        self.makers[upstream_task_id] = task_id
        self.ends[upstream_task_id] = self.clock.now + self.rng.randrange(60_000, 900_000)

    async def live(self, duration_s: float) -> None:
        end_ms = self.clock.now + int(duration_s * 1000)
        while self.clock.now < end_ms:
            for due_ms, task_id in list(self.late):
                if due_ms <= self.clock.now:
                    self.late.remove((due_ms, task_id))
                    self.make(task_id)
            self._show()
            await reconcile_due(self.runtime, self.upstream, "default")
            self.clock.advance(STEP_S)

    def _show(self) -> None:
        hidden = set()
        for index, task in enumerate(self.upstream.listed):
            key = task.upstream_task_id
            if key in self.makers:
                has_ended = self.ends[key] <= self.clock.now
                self.upstream.shown[key] = SUCCESS if has_ended else Observation("running", {})
                if self.partial:
                    seed = self.lost[self.makers[key]].markers.seed if has_ended else None
                    self.upstream.listed[index] = replace(task, seed=seed)
            if (task.created_at_ms or 0) > self.clock.now - self.lag_s * 1000:
                hidden.add(key)
        self.upstream.hidden_from_list = hidden

    async def judge(self) -> None:
        """Compare what became of it all with what really was."""
        recorded = {each.upstream_task_id for each in await orphans_of(self.runtime)}
        adopted: dict[str, str] = {}
        for task_id in self.lost:
            task = await find_task(self.runtime, task_id)
            assert task.state is not TaskState.UNKNOWN, f"{task_id} is unknown yet"
            if task.upstream_task_id is not None:
                assert task.upstream_task_id not in adopted
                adopted[task.upstream_task_id] = task_id
                self._judge_owner(task_id, task.upstream_task_id, task.project_id)
        for upstream_task_id, maker in self.makers.items():
            if upstream_task_id in adopted:
                continue
            assert upstream_task_id in recorded, f"nobody knows {upstream_task_id}"
            evidence = await evidence_of(self.runtime, maker)
            assert evidence != _PROVED_ABSENT, f"{maker} was made, and taken for absent"

    def _judge_owner(self, task_id: str, upstream_task_id: str, project_id: str) -> None:
        maker = self.makers[upstream_task_id]
        if maker == task_id:
            return
        ours, theirs = self.lost[task_id], self.lost[maker]
        assert ours.request == theirs.request, f"{task_id} got the video of {maker}"
        assert project_id == self.owners[maker], f"{task_id} got another project's video"


async def play(
    seed: int, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock, projects: list[Principal]
) -> None:
    rng = random.Random(seed)
    is_dedicated = rng.random() < 0.5
    runtime = tuned(
        runtime,
        markers={"exclusion": is_dedicated},
        submit={"max_unknown": 100, "max_unknown_key": 100},
        reconciler={"page_size": rng.choice((2, 5, 200))},
    )
    upstream.now_ms = clock.now_ms
    echo = rng.choice(("all", "partial", "none"))
    upstream.echoes = echo == "all"
    upstream.tells_total = rng.random() < 0.7
    story = Story(rng, runtime, upstream, clock, projects)
    story.lag_s, story.partial = rng.choice((0, 20, 55)), echo == "partial"
    await story.live(60)
    await accept(runtime, projects[0])
    await story.live(rng.randrange(60, 600))
    for _ in range(rng.randrange(1, 6)):
        await story.lose()
        if not is_dedicated and rng.random() < 0.4:
            created_at_ms = clock.now - rng.randrange(100_000)
            upstream.listed.insert(0, a_stranger(len(upstream.listed), created_at_ms))
        if rng.random() < 0.7:
            await story.live(rng.randrange(30, 600))
    for task_id in story.lost:
        story.owners[task_id] = (await find_task(runtime, task_id)).project_id
    await story.live(HOURS * 3600)
    await story.judge()


@pytest.mark.parametrize("seed", range(SEEDS), ids=lambda seed: f"seed-{seed}-")
async def test_every_task_is_somebodys_or_an_orphan(
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    principal: Principal,
    stranger: Principal,
    seed: int,
) -> None:
    await play(seed, runtime, upstream, clock, [principal, stranger])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(SEEDS, SEEDS_LONG), ids=lambda seed: f"seed-{seed}-")
async def test_every_task_is_somebodys_or_an_orphan_for_many_seeds(
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    principal: Principal,
    stranger: Principal,
    seed: int,
) -> None:
    await play(seed, runtime, upstream, clock, [principal, stranger])
