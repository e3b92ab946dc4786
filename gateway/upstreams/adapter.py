"""The `Upstream` port over HTTP. A dialect adds its paths, its words and its reading of answers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway.config import UpstreamConfig
from gateway.domain.attempts import NO_MARKERS, ListedTask, Markers
from gateway.domain.markers import apply_markers
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import JsonObject, Observation
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
from gateway.ports import Clock, ListedPage, Submission
from gateway.upstreams.answers import Answer, encode_json
from gateway.upstreams.client import CallRecord, Operation, Outcome, UpstreamClient
from gateway.upstreams.faults import find_error, read_fault, says_task_gone
from gateway.upstreams.listing import read_listed, read_page
from gateway.upstreams.pacing import Pacer
from gateway.upstreams.reading import read_items, read_object, read_submission

LIST_COUNT_MAX: Final = 500
PAGE_NUM_MAX: Final = 500
# Shaped like an id of the vendor's, of a time when there was no vendor.
_IMPOSSIBLE_ID: Final = "cgt-19700101000000-00000"
_NO_NEWS: Final = Observation(status="", fields={})


@dataclass(frozen=True, slots=True)
class Dialect:
    """A wire format, as pure functions."""

    tasks_url: Callable[[str], str]
    """The configured base URL -> the URL of the collection of tasks."""
    render_submission: Callable[[NormalizedRequest, str, str | None], JsonObject]
    """(request, deployment, upstream's id of the draft) -> the body of the POST."""
    read_task: Callable[[JsonObject, Sequence[str]], tuple[str, Observation]]
    """(task object, perhaps wrapped; ids to hide) -> its id, or "", and what it shows."""
    unwrap_task: Callable[[JsonObject], JsonObject]
    """Task object, perhaps wrapped -> the same one bare, with all that the upstream says of it."""
    supports_list: bool
    supports_cancel: bool


class HttpUpstream:
    """One configured upstream. Callers look at `supports_list` and `supports_cancel` first."""

    def __init__(
        self,
        config: UpstreamConfig,
        dialect: Dialect,
        client: UpstreamClient,
        clock: Clock,
        on_call: Callable[[CallRecord], None],
    ) -> None:
        self._config = config
        self._dialect = dialect
        self._client = client
        self._clock = clock
        self._on_call = on_call
        self._gets = self._pacers(config.get_per_s_max)
        self._lists = self._pacers(config.list_per_s_max)

    @property
    def name(self) -> str:
        return self._config.name

    @property
    def credentials(self) -> Sequence[str]:
        return [credential.name for credential in self._config.credentials]

    @property
    def supports_list(self) -> bool:
        given = self._config.supports_list
        return self._dialect.supports_list if given is None else given

    @property
    def supports_cancel(self) -> bool:
        given = self._config.supports_cancel
        return self._dialect.supports_cancel if given is None else given

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
        marked = apply_markers(request, markers)
        rendered = self._dialect.render_submission(marked, deployment, draft_task_id)
        if callback_url is not None:
            rendered = {**rendered, "callback_url": callback_url}
        body = encode_json(rendered)
        with self._recorded(Operation.SUBMIT):
            answer = await self._client.submit(credential, body, attempt_id)
            return read_submission(answer, definite_5xx=self._config.definite_5xx)

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        found = await self.find_task(credential, upstream_task_id)
        return None if found is None else found.observation

    async def find_task(self, credential: str, upstream_task_id: str) -> ListedTask | None:
        await _wait_turn(self._gets, credential)
        with self._recorded(Operation.GET):
            answer = await self._client.get(credential, upstream_task_id)
            if says_task_gone(answer):
                return None
            shown = read_object(answer)
            found_id, observation = self._dialect.read_task(shown, [upstream_task_id])
            if not observation.status and find_error(answer) is not None:
                raise UpstreamUnavailable("The upstream answered a read with an error.")
        # Another task's state, from a confused cache, is no news of this one. The number of a row,
        # where ids are no numbers, names no task at all.
        is_of_row = found_id.isdigit() and not upstream_task_id.isdigit()
        if is_of_row or found_id in {upstream_task_id, ""}:
            return read_listed(self._dialect.unwrap_task(shown), upstream_task_id, observation)
        return ListedTask(upstream_task_id, created_at_ms=None, observation=_NO_NEWS)

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        if not 0 < len(upstream_task_ids) <= LIST_COUNT_MAX:
            raise ValueError(f"one list call covers 1 to {LIST_COUNT_MAX} tasks")
        # One page holds as many tasks as are asked for, so that none is left on a second one.
        query = [
            ("page_num", "1"),
            ("page_size", str(len(upstream_task_ids))),
            *(("filter.task_ids", upstream_task_id) for upstream_task_id in upstream_task_ids),
        ]
        await _wait_turn(self._lists, credential)
        with self._recorded(Operation.LIST):
            answer = await self._client.list(credential, query)
            seen = dict(self._dialect.read_task(item, ()) for item in read_items(answer))
        return {key: seen[key] for key in upstream_task_ids if key in seen}

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        if not (1 <= page_num <= PAGE_NUM_MAX and 1 <= page_size <= LIST_COUNT_MAX):
            raise ValueError(f"pages are 1 to {PAGE_NUM_MAX}, of 1 to {LIST_COUNT_MAX} tasks")
        query = [("page_num", str(page_num)), ("page_size", str(page_size))]
        if service_tier is not None:
            query.append(("filter.service_tier", service_tier))
        await _wait_turn(self._lists, credential)
        with self._recorded(Operation.LIST):
            answer = await self._client.list(credential, query)
            return read_page(answer, page_size, self._dialect.read_task, self._dialect.unwrap_task)

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        await _wait_turn(self._gets, credential)
        with self._recorded(Operation.CANCEL):
            answer = await self._client.delete(credential, upstream_task_id)
            if not answer.is_success:
                raise _cancel_fault(answer)

    async def check(self, credential: str) -> None:
        if self.supports_list:
            await _wait_turn(self._lists, credential)
            with self._recorded(Operation.LIST):
                query = [("page_num", "1"), ("page_size", "1")]
                read_items(await self._client.list(credential, query))
            return
        # Without a list, a task that can't exist: to be told so proves path and credential.
        try:
            await self.observe(credential, _IMPOSSIBLE_ID)
        except UpstreamRejected as fault:
            if fault.public_status != 400:
                raise

    async def close(self) -> None:
        await self._client.close()

    def _pacers(self, per_s_max: float) -> Mapping[str, Pacer]:
        wait_s_max = self._config.read_timeout_s
        return {
            name: Pacer(per_s_max, self._clock, wait_s_max=wait_s_max) for name in self.credentials
        }

    @contextmanager
    def _recorded(self, operation: Operation) -> Iterator[None]:
        started_s = self._clock.monotonic_s()
        outcome = Outcome.ABANDONED
        try:
            yield
            outcome = Outcome.OK
        except GatewayError as error:
            outcome = _outcome_of(error)
            raise
        finally:
            duration_s = self._clock.monotonic_s() - started_s
            self._on_call(CallRecord(self.name, operation, outcome, duration_s))


_OUTCOMES: Final[Mapping[type[GatewayError], Outcome]] = {
    UpstreamUnavailable: Outcome.UNAVAILABLE,
    UpstreamTimeout: Outcome.TIMEOUT,
    UpstreamAmbiguous: Outcome.AMBIGUOUS,
    UpstreamAccount: Outcome.ACCOUNT,
}


def _outcome_of(error: GatewayError) -> Outcome:
    if error.public_status == 429:
        return Outcome.RATE_LIMITED
    return _OUTCOMES.get(type(error), Outcome.REJECTED)


def _cancel_fault(answer: Answer) -> GatewayError:
    error = find_error(answer)
    if error is not None and error.code == RunningTaskDeletion.code:
        return RunningTaskDeletion("The task can't be deleted because it is currently running.")
    if says_task_gone(answer):
        return TaskNotFound("The upstream does not know the task.")
    return read_fault(answer)


async def _wait_turn(pacers: Mapping[str, Pacer], credential: str) -> None:
    pacer = pacers.get(credential)
    if pacer is not None:  # else the client refuses the call
        await pacer.wait_turn()
