"""The attempt: what is kept of a task's one submission, to recognize it again afterwards.

It answers three questions. Is this request the same one again (idempotency key, fingerprint,
whether its client ever got an answer)? Which of the upstream's tasks came of it, if its answer was
lost (markers, time of sending, shape)? And who is to be told of its progress (callback address)?
"""

from dataclasses import dataclass, field
from typing import Final

from gateway.domain.tasks import Observation


@dataclass(frozen=True, slots=True)
class Shape:
    """What the upstream's list can show of a request: to exclude tasks that it can't be."""

    deployment: str
    resolution: str | None = None
    ratio: str | None = None
    duration_s: int | None = None
    """None or -1 excludes nothing; so does `adaptive`, and whatever the list leaves out."""


@dataclass(frozen=True, slots=True)
class Markers:
    """What an attempt carries that the upstream may echo."""

    seed: int | None = None
    """Drawn by us when the client gave none and the model takes one; the meaning is the same."""
    expires_after_s: int | None = None
    safety_identifier: str | None = None
    """The suffix of ours alone: nothing of the client's."""
    callback_token: str | None = None
    """The unguessable part of our callback address: its SHA-256, in hex, once it is stored."""


NO_MARKERS: Final = Markers()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One submission. Times are those of our clock."""

    task_id: str
    project_id: str
    key_id: str
    fingerprint: str
    owner: str
    """The process that sends it."""
    client_owner: str
    """The process whose client waits for the answer: another one, once a repeat joined."""
    created_at_ms: int
    shape: Shape
    markers: Markers
    has_client_left: bool = False
    is_answered: bool = False
    """Whether its id was delivered to a client. Such an attempt is never joined."""
    is_id_given: bool = False
    """Whether a client may know its id already: a refusal then is the failure of a task."""
    claimed_task_id: str | None = None
    """The upstream task that a callback named before one was known. A hint: a read decides."""
    callback_url: str | None = None
    """The client's, served by us; never sent upstream."""
    probe_count: int = 0
    """How often its upstream's list was read for it."""
    pass_count: int = 0
    """Those of them that were complete, came after the quiet time, showed what they had to show,
    and did not show it."""
    next_probe_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ListedTask:
    """One task in an upstream's list, as far as the list shows it."""

    upstream_task_id: str
    created_at_ms: int | None
    """In whole seconds, as the upstream tells it."""
    model: str | None = None
    """The vendor's id of it, as a rule also where the request named an endpoint (`ep-...`)."""
    status: str = ""
    seed: int | None = None
    expires_after_s: int | None = None
    safety_identifier: str | None = None
    """As echoed, whole: `markers.find_safety_marker` finds a suffix of ours in it."""
    resolution: str | None = None
    ratio: str | None = None
    duration_s: int | None = None
    observation: Observation = field(default=Observation("", {}), repr=False, hash=False)
    """The same item as clients may see it: what an adoption moves its task by."""
    updated_at_ms: int | None = None
