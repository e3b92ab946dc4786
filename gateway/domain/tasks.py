r"""The life of a task. Every rule about states is in this file; nothing here does I/O.

A task is `reserved`, in a committed row, before the first byte of its submission goes upstream. So
a crash at any instruction leaves a row that says what may have been bought.

    reserved --accepted--> queued --started--> running --> succeeded | failed | expired
       |  \--lost-----> unknown --found--> queued, running or a terminal state
       |                 |   \--absent / disputed / horizon passed--> failed
       |\--refused / never sent--> rejected       queued --> any later state, also cancelled
       \--refused_late--> failed                 queued, running --vanished--> failed

`unknown` means that the upstream may have accepted: nobody may guess, evidence must come.
`rejected` is kept for audit; its client got the error and no id. A refusal that comes after the
client was given its id makes the task `failed`, with the vendor's error.

States move forward only, each move a compare-and-set on `(id, version)` in one transaction. An
observation that brings nothing new, or that we do not understand, is no move at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NewType

JsonObject = Mapping[str, object]
TaskId = NewType("TaskId", str)


class TaskState(StrEnum):
    RESERVED = "reserved"
    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class Event(StrEnum):
    """What happened, as far as evidence goes."""

    ACCEPTED = "accepted"  # a complete 2xx answer with an id; or the task seen as queued
    LOST = "lost"  # bytes left, no definite answer came
    REFUSED = "refused"  # a definite no (or never sent) while the client still waits
    REFUSED_LATE = "refused_late"  # the same, after the client was given its id
    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    ABSENT = "absent"  # proved never to have existed, disputed, or past the horizon
    VANISHED = "vanished"  # the upstream keeps answering 404 for a task it accepted


_R, _U, _Q, _RUN = TaskState.RESERVED, TaskState.UNKNOWN, TaskState.QUEUED, TaskState.RUNNING

_ENDS: Final = {
    Event.SUCCEEDED: TaskState.SUCCEEDED,
    Event.FAILED: TaskState.FAILED,
    Event.CANCELLED: TaskState.CANCELLED,
    Event.EXPIRED: TaskState.EXPIRED,
}

TRANSITIONS: Final[Mapping[tuple[TaskState, Event], TaskState]] = {
    (_R, Event.ACCEPTED): _Q,
    (_R, Event.LOST): _U,
    (_R, Event.REFUSED): TaskState.REJECTED,
    (_R, Event.REFUSED_LATE): TaskState.FAILED,
    (_U, Event.ACCEPTED): _Q,
    (_U, Event.STARTED): _RUN,
    (_U, Event.ABSENT): TaskState.FAILED,
    (_Q, Event.STARTED): _RUN,
    (_Q, Event.VANISHED): TaskState.FAILED,
    (_RUN, Event.VANISHED): TaskState.FAILED,
    # An upstream that says `cancelled` of a running task has ended it, whoever asked for that.
    **{(state, event): end for state in (_U, _Q, _RUN) for event, end in _ENDS.items()},
}

TERMINAL: Final = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.CANCELLED,
        TaskState.EXPIRED,
        TaskState.REJECTED,
    }
)
OBSERVED: Final = frozenset({TaskState.QUEUED, TaskState.RUNNING})

IMPORTED_KEY: Final = "imported"
"""Stands for the key of a task that no key of ours submitted."""
"""The states in which the observer asks the upstream."""

PUBLIC_STATUS: Final[Mapping[TaskState, str]] = {
    state: "queued" if state in {TaskState.RESERVED, TaskState.UNKNOWN} else state.value
    for state in TaskState
    if state is not TaskState.REJECTED
}
"""What clients see; a rejected task has no public face."""

_EVENT_OF_STATUS: Final[Mapping[str, Event]] = {
    "queued": Event.ACCEPTED,
    "running": Event.STARTED,
    "succeeded": Event.SUCCEEDED,
    "failed": Event.FAILED,
    "cancelled": Event.CANCELLED,
    "expired": Event.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed, as shown to the client."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What one look at the upstream showed: the upstream's status word and its other fields.

    `fields` holds the task object's fields that clients may see (content, usage, seed, ...), never
    the upstream's id. `error` is set when the upstream says why the task failed.
    """

    status: str
    fields: JsonObject
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class Bill:
    """What a settled task cost, as its client is shown it."""

    cost_micros: int
    currency: str
    price_version: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where a task was sent; it stays pinned there to its end."""

    upstream: str
    credential: str
    deployment: str


@dataclass(frozen=True, slots=True)
class Task:
    """One generation asked for by a client. `version` counts its moves, from 1."""

    id: TaskId
    project_id: str
    key_id: str
    model: str
    family: str
    route: Route
    state: TaskState
    version: int
    created_at_ms: int
    updated_at_ms: int
    submit_deadline_at_ms: int
    """When a submission without an answer is lost, whoever was waiting for it."""
    expires_at_ms: int
    """The upstream's own expiry: before it, our clock fails nothing."""
    service_tier: str = "default"
    upstream_task_id: str | None = None
    upstream_request_id: str | None = None
    fields: JsonObject | None = None
    error: TaskError | None = None
    next_poll_at_ms: int | None = None
    poll_count: int = 0
    missing_count: int = 0
    missing_since_ms: int | None = None
    deleted_at_ms: int | None = None
    bill: Bill | None = None
    called_back_at_ms: int | None = None
    """When its upstream last called back; a call without news counts as of the last move."""

    @property
    def is_called_back(self) -> bool:
        """Whether its callback address was ever called, whatever the call said."""
        return self.called_back_at_ms is not None

    @property
    def is_news_due(self) -> bool:
        """Whether a callback told of a change that no look has shown yet."""
        return self.called_back_at_ms is not None and self.called_back_at_ms > self.updated_at_ms

    @property
    def is_imported(self) -> bool:
        """Whether it was made before the switch to this gateway, and so by none of its keys.

        That it has its upstream's id as its own proves nothing: we tell upstreams our ids, and one
        may name its task by them.
        """
        return self.key_id == IMPORTED_KEY


def event_of(status: str) -> Event | None:
    """Return what an upstream's status word says, or None for a word we do not know: no news."""
    return _EVENT_OF_STATUS.get(status)


def can_advance(state: TaskState, event: Event) -> bool:
    """Whether `event` is news in `state`."""
    return (state, event) in TRANSITIONS


def advance(task: Task, event: Event, now_ms: int) -> Task:
    """Return the task after `event`, one version on.

    A pair outside the table is a programmer's error: callers ask `can_advance` first.
    """
    state = TRANSITIONS[task.state, event]
    return replace(
        task,
        state=state,
        version=task.version + 1,
        updated_at_ms=max(now_ms, task.updated_at_ms),
        next_poll_at_ms=None if state in TERMINAL else task.next_poll_at_ms,
    )


def observe(task: Task, observation: Observation, now_ms: int) -> Task | None:
    """Return the task as `observation` moves it, or None if it brings no news.

    A queued task seen queued again is no news; so is a status word that we do not know.
    """
    event = event_of(observation.status)
    if event is None or not can_advance(task.state, event):
        return None
    moved = advance(task, event, now_ms)
    error = observation.error
    if moved.state is TaskState.FAILED and error is None:
        error = TaskError("InternalServiceError", "The upstream gave no reason.")
    return replace(
        moved,
        fields=observation.fields,
        error=error,
        missing_count=0,
        missing_since_ms=None,
    )
