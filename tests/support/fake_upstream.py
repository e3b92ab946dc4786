"""An upstream that does as it is told and remembers what it was asked."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.domain.attempts import NO_MARKERS, ListedTask, Markers
from gateway.domain.markers import apply_markers
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Observation
from gateway.errors import UpstreamAmbiguous
from gateway.ports import ListedPage, Submission


@dataclass
class Submitted:
    """One paid POST that was received."""

    credential: str
    deployment: str
    request: NormalizedRequest
    draft_task_id: str | None
    attempt_id: str
    markers: Markers = NO_MARKERS
    callback_url: str | None = None


@dataclass
class FakeUpstream:
    """Implements the Upstream port. Errors to raise and statuses to show are set by the test.

    Each task made is listed, newest first, with what it echoes of its request. The status listed is
    the one in `shown`, if there is one.
    """

    name: str = "fake"
    credentials: Sequence[str] = ("default",)
    supports_list: bool = True
    supports_cancel: bool = True
    submit_errors: list[Exception] = field(default_factory=list)
    read_error: Exception | None = None
    list_error: Exception | None = None
    cancel_error: Exception | None = None
    shown: dict[str, Observation] = field(default_factory=dict)
    shown_in_list: dict[str, Observation] = field(default_factory=dict)
    """What lists show instead, where that is something else."""
    hidden_from_list: set[str] = field(default_factory=set)
    submits: list[Submitted] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    lists: list[Sequence[str]] = field(default_factory=list)
    listed: list[ListedTask] = field(default_factory=list)
    """Newest first. Tests may add tasks of others, or take some away."""
    pages: list[tuple[str, int, int]] = field(default_factory=list)
    """The pages asked for: credential, number, size."""
    tells_total: bool = True
    echoes: bool = True
    """Whether seed, expiry and safety identifier are listed."""
    takes_our_ids: bool = False
    """Whether tasks are named by the ids that they have at the gateway."""
    makes_lost_tasks: bool = False
    """Whether a submit whose error is UpstreamAmbiguous makes its task all the same."""
    now_ms: Callable[[], int] | None = None
    """The date of tasks made; without it, lists tell none."""
    cancels: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """If set, a submit waits for it before it is answered."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first submit has come."""

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
        submitted = Submitted(
            credential, deployment, request, draft_task_id, attempt_id, markers, callback_url
        )
        self.submits.append(submitted)
        number = len(self.submits)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        error = self.submit_errors.pop(0) if self.submit_errors else None
        if error is not None and not (
            self.makes_lost_tasks and isinstance(error, UpstreamAmbiguous)
        ):
            raise error
        upstream_task_id = self.make(
            submitted, attempt_id if self.takes_our_ids else f"up-{number}"
        )
        if error is not None:
            raise error
        return Submission(upstream_task_id, "req-1")

    def make(self, submitted: Submitted, upstream_task_id: str) -> str:
        """Make the task of a submit, or, late or twice, another one of it; return its id."""
        sent = apply_markers(submitted.request, submitted.markers)
        task = ListedTask(
            upstream_task_id,
            # Upstreams count in whole seconds.
            self.now_ms() // 1000 * 1000 if self.now_ms is not None else None,
            model=submitted.deployment,
            resolution=sent.resolution,
            ratio=sent.ratio,
            duration_s=sent.duration_s,
        )
        if self.echoes:
            task = replace(
                task,
                seed=sent.parameters.seed,
                expires_after_s=sent.parameters.execution_expires_after,
                safety_identifier=sent.parameters.safety_identifier,
            )
        self.listed.insert(0, task)
        self.shown[upstream_task_id] = Observation("queued", {})
        return upstream_task_id

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        del credential
        self.gets.append(upstream_task_id)
        if self.read_error is not None:
            raise self.read_error
        return self.shown.get(upstream_task_id)

    async def find_task(self, credential: str, upstream_task_id: str) -> ListedTask | None:
        observation = await self.observe(credential, upstream_task_id)
        if observation is None:
            return None
        unlisted = ListedTask(upstream_task_id, created_at_ms=None)
        found = (task for task in self.listed if task.upstream_task_id == upstream_task_id)
        return replace(next(found, unlisted), status=observation.status, observation=observation)

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        del credential
        self.lists.append(upstream_task_ids)
        if error := self.read_error or self.list_error:
            raise error
        asked = set(upstream_task_ids) - self.hidden_from_list
        listed = {**self.shown, **self.shown_in_list}
        return {key: value for key, value in listed.items() if key in asked}

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        del service_tier
        self.pages.append((credential, page_num, page_size))
        if error := self.read_error or self.list_error:
            raise error
        visible = [x for x in self.listed if x.upstream_task_id not in self.hidden_from_list]
        start = (page_num - 1) * page_size
        page = [self._as_it_is(task) for task in visible[start : start + page_size]]
        return ListedPage(page, len(visible) if self.tells_total else None, len(page))

    def _as_it_is(self, task: ListedTask) -> ListedTask:
        listed = {**self.shown, **self.shown_in_list}
        observation = listed.get(task.upstream_task_id, task.observation)
        return replace(task, status=observation.status, observation=observation)

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        del credential
        self.cancels.append(upstream_task_id)
        if self.cancel_error is not None:
            raise self.cancel_error

    async def check(self, credential: str) -> None:
        del credential

    async def close(self) -> None:
        """Nothing is open."""
