"""The Upstream port of a simulated gateway: its door to the world."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from gateway.domain.attempts import NO_MARKERS, ListedTask, Markers
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Observation, TaskError
from gateway.errors import (
    GatewayError,
    RunningTaskDeletion,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ports import ListedPage, Submission
from tests.simulation.loop import CAUSE, Owner
from tests.simulation.world import (
    CREATES,
    CREDENTIAL,
    LATE_S_MAX,
    LISTED_S,
    QUIET_S,
    UPSTREAM,
    Echo,
    Fate,
    Received,
    World,
    WorldTask,
)

T = TypeVar("T")


class SimulatedUpstream:
    """The Upstream port of one process. What a dead process sent still arrives, nothing else."""

    name = UPSTREAM
    credentials: Sequence[str] = (CREDENTIAL,)
    supports_list = True
    supports_cancel = True

    def __init__(self, world: World, owner: Owner) -> None:
        self._world = world
        self._owner = owner

    async def submit(
        self,
        credential: str,
        deployment: str,
        request: NormalizedRequest,
        *,
        draft_task_id: str | None,
        attempt_id: str,
        markers: Markers = NO_MARKERS,
        callback_url: str | None = None,
    ) -> Submission:
        """Send the request; its fate is drawn."""
        del credential, draft_task_id
        await self._pass_time(0)
        world, draws = self._world, self._world.draws
        fate = world.draw_fate()
        if fate is Fate.NOT_SENT:
            await self._pass_time(draws.uniform(0, 5))
            raise UpstreamUnavailable("The upstream can't be reached.", retry_after_s=5)
        prompt = next(item.value for item in request.content if item.type == "text") or ""
        received = Received(world.loop.time(), attempt_id, prompt, fate, CAUSE.get())
        world.received.append(received)
        world.trace(f"received {attempt_id}: {fate}")
        world.on_received(received)
        created_s, answered_s = self._draw_times(fate)
        task = self._plan(request, prompt, deployment, attempt_id, markers)
        task.callback_url = callback_url
        if fate in CREATES:
            world.expect(created_s, task)
        await self._pass_time(answered_s)
        if fate in {Fate.TAKEN, Fate.SLOW}:
            world.trace(f"answered {attempt_id}: {task.id}")
            return Submission(task.id, f"req-{task.id}")
        raise _refusal_of(fate)

    def _draw_times(self, fate: Fate) -> tuple[float, float]:
        """Return after how many seconds the task is created, and the answer known."""
        draws = self._world.draws
        if fate is Fate.SLOW:
            created_s = draws.uniform(0, 120)
            return created_s, created_s + draws.uniform(0, 400)
        answered_s = draws.choice((0.2, 2.0, 30.0)) * draws.uniform(0.2, 1)
        if fate is Fate.LATE:
            return answered_s + draws.uniform(0, QUIET_S - 60), answered_s
        if fate is Fate.VERY_LATE:
            return answered_s + draws.uniform(QUIET_S, LATE_S_MAX), answered_s
        return answered_s * draws.uniform(0, 0.9), answered_s

    def _plan(
        self,
        request: NormalizedRequest,
        prompt: str,
        deployment: str,
        attempt_id: str,
        markers: Markers,
    ) -> WorldTask:
        task = self._world.plan(prompt, deployment)
        given = request.parameters
        task.attempt_id = attempt_id
        task.resolution = given.resolution or "720p"
        task.ratio = given.ratio or "16:9"
        task.duration_s = given.duration or 5
        sent = markers.seed if given.seed in {None, -1} else given.seed
        task.seed = task.seed if sent is None else sent
        task.expires_after_s = (
            given.execution_expires_after or markers.expires_after_s or task.expires_after_s
        )
        identifier = given.safety_identifier
        if markers.safety_identifier is not None:
            identifier = f"{identifier or ''}.{markers.safety_identifier}"
        task.safety_identifier = identifier
        return task

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        """Read one task, as it is or as it was a moment ago."""
        del credential
        await self._pass_latency()
        self._fail_read("read failed", self._world.weather.read_failed)
        task = self._find(upstream_task_id)
        if task is None:
            return None
        if self._world.is_struck(self._world.weather.read_missing, "read missing"):
            return None
        return await self._answer(self._show(task))

    async def find_task(self, credential: str, upstream_task_id: str) -> ListedTask | None:
        """Read one task, with what the upstream shows of what it was made of."""
        del credential
        await self._pass_latency()
        self._fail_read("read failed", self._world.weather.read_failed)
        task = self._find(upstream_task_id)
        if task is None:
            return None
        if self._world.is_struck(self._world.weather.read_missing, "read missing"):
            return None
        return await self._answer(self._item(task))

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        """Read those tasks that the list shows by now."""
        del credential
        await self._pass_latency()
        self._fail_read("list failed", self._world.weather.list_failed)
        listed = {task.id: task for task in self._listed()}
        shown = {key: self._show(listed[key]) for key in upstream_task_ids if key in listed}
        return await self._answer(shown)

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        """Return a page, newest first; tasks made meanwhile shift it."""
        del credential
        await self._pass_latency()
        world, weather = self._world, self._world.weather
        self._fail_read("list failed", weather.list_failed)
        tasks = [] if service_tier == "flex" else self._listed()
        start = (page_num - 1) * page_size
        if start and world.is_struck(weather.page_shifted, "page shifted"):
            start -= 1
        page = tasks[start : start + page_size]
        items = [self._item(task) for task in page]
        if items and world.is_struck(weather.entry_unreadable, "entry unreadable"):
            items.pop(world.draws.randrange(len(items)))
        total = len(tasks) if weather.tells_total else None
        return await self._answer(ListedPage(items, total, len(page)))

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        """Cancel a queued task; the record of an ended one is gone afterwards."""
        del credential
        await self._pass_latency()
        world = self._world
        is_lost = world.is_struck(world.weather.cancel_lost, "cancel lost")
        if is_lost and world.draws.random() < 0.5:
            raise UpstreamTimeout("The upstream did not answer in time.")
        task = self._find(upstream_task_id)
        if task is None:
            raise TaskNotFound("The upstream does not know the task.")
        status = task.status_at(world.loop.time())
        if status == "running":
            raise RunningTaskDeletion("The task can't be deleted because it is running.")
        if status == "queued":
            task.cancelled_s = world.loop.time()
        else:
            task.is_deleted = True
        world.trace(f"cancelled {task.id}, which was {status}")
        if is_lost:
            raise UpstreamTimeout("The upstream did not answer in time.")
        await self._answer(None)

    async def check(self, credential: str) -> None:
        """Nothing is wrong with the credential."""

    async def close(self) -> None:
        """Nothing is open."""

    def _find(self, upstream_task_id: str) -> WorldTask | None:
        task = self._world.tasks.get(upstream_task_id)
        return None if task is None or task.is_deleted else task

    def _listed(self) -> list[WorldTask]:
        now_s = self._world.loop.time()
        shown = [
            task
            for task in self._world.tasks.values()
            if not task.is_deleted and task.lag_s <= now_s - task.created_s < LISTED_S
        ]
        return sorted(shown, key=lambda task: (-int(task.created_s), task.id))

    def _item(self, task: WorldTask) -> ListedTask:
        """Return what a list shows of a task, with or without what it was made of."""
        now_s = self._world.loop.time()
        echo = self._world.weather.echo
        is_whole = task.is_shown_whole and echo is not Echo.NEVER
        if echo is Echo.WHEN_ENDED:
            is_whole = task.status_at(now_s) not in {"queued", "running"}
        return ListedTask(
            upstream_task_id=task.id,
            created_at_ms=self._world.loop.date_ms(task.created_s) // 1000 * 1000,
            model=task.deployment,
            status=task.status_at(now_s),
            seed=task.seed if is_whole else None,
            expires_after_s=task.expires_after_s if is_whole else None,
            safety_identifier=task.safety_identifier if is_whole else None,
            resolution=task.resolution if is_whole else None,
            ratio=task.ratio if is_whole else None,
            duration_s=task.duration_s if is_whole else None,
            observation=self._show(task),
        )

    def _show(self, task: WorldTask) -> Observation:
        world = self._world
        if world.is_struck(world.weather.read_odd, "read odd"):
            return Observation("reticulating", {})
        at_s = world.loop.time()
        if world.is_struck(world.weather.read_stale, "read stale"):
            at_s -= world.draws.uniform(0, 30)
        status = task.status_at(at_s)
        fields: dict[str, object] = {"seed": task.seed}
        if status == "succeeded":
            fields["content"] = {"video_url": "https://video.example/boat.mp4"}
            fields |= {"resolution": task.resolution, "ratio": task.ratio}
            fields |= {"duration": task.duration_s, "framespersecond": 24}
            if task.is_counted:
                counted = {"completion_tokens": task.tokens, "total_tokens": task.tokens}
                fields["usage"] = counted
        if status == "failed":
            return Observation(status, fields, TaskError("InternalServiceError", "It failed."))
        return Observation(status, fields)

    def _fail_read(self, fault: str, share: float) -> None:
        world = self._world
        if not world.is_struck(share, fault):
            return
        kind = world.draws.randrange(3)
        if kind == 0:
            raise UpstreamTimeout("The upstream did not answer in time.")
        if kind == 1:
            raise UpstreamUnavailable("The upstream can't be reached.")
        raise UpstreamRejected(
            "Too many requests.", code="RateLimitExceeded", status=429, retry_after_s=10
        )

    async def _pass_latency(self) -> None:
        """Let the request travel."""
        await self._pass_time(self._world.draws.uniform(0, self._world.weather.latency_s_max))

    async def _answer(self, answer: T) -> T:
        """Let what was found travel back: by then it may be old."""
        await self._pass_latency()
        return answer

    async def _pass_time(self, duration_s: float) -> None:
        await self._world.loop.pass_time(duration_s, self._owner)


def _refusal_of(fate: Fate) -> GatewayError:
    """Return what the gateway is told of a submission that has no id."""
    if fate is Fate.REJECTED:
        return UpstreamRejected("The text may be sensitive.", code="Sensitive", status=400)
    if fate is Fate.THROTTLED:
        return UpstreamRejected("Too many.", code="RateLimit", status=429, retry_after_s=3)
    if fate is Fate.ACCOUNT:
        return UpstreamAccount("The upstream refused the credential.")
    return UpstreamAmbiguous("The upstream did not answer.")
