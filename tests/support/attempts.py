"""Attempts, and what an upstream's list may show of them."""

from dataclasses import replace
from typing import Any, Final

from gateway.domain.attempts import Attempt, ListedTask, Markers, Shape
from gateway.domain.likeness import DEFAULT_TIER, Sent
from gateway.domain.reconciling import Control, Pass

SENT_MS: Final = 1_764_000_000_000
DEADLINE_MS: Final = 600_000
"""How long after it was sent an attempt is lost."""
MODEL: Final = "doubao-seedance-1-0-pro-250528"
SHAPE: Final = Shape(MODEL, "480p", "16:9", 5)
KNOWN: Final = "up-known"
CONTROL: Final = Control(KNOWN, SENT_MS - 3_600_000, SENT_MS - 3_599_000)
QUIET_MS: Final = DEADLINE_MS + 15 * 60_000
"""How long after it was sent an attempt's absence begins to say something."""
LATE_MS: Final = SENT_MS + 3 * QUIET_MS


def an_attempt(name: str = "a", **changes: Any) -> Attempt:
    attempt = Attempt(
        task_id=name,
        project_id="proj_default",
        key_id="Key000000000",
        fingerprint="f" * 64,
        owner="owner-1",
        client_owner="owner-1",
        created_at_ms=SENT_MS,
        shape=SHAPE,
        markers=Markers(),
    )
    return replace(attempt, **changes)


def a_sent(name: str = "a", *, after_s: int = 0, **changes: Any) -> Sent:
    """Return an attempt that was sent so much later than others, and lost at its deadline.

    `changes` are the attempt's, or those of `Sent` itself.
    """
    own = {
        key: changes.pop(key)
        for key in ("standing", "is_called_back", "service_tier")
        if key in changes
    }
    sent_ms = SENT_MS + after_s * 1000
    deadline_ms = sent_ms + DEADLINE_MS
    attempt = an_attempt(name, created_at_ms=sent_ms, **changes)
    return Sent(attempt, deadline_ms, lost_at_ms=deadline_ms, **own)


def a_listed(name: str = "up-1", *, after_s: int | None = 1, **changes: Any) -> ListedTask:
    """Return a task that was made so long after the first attempt was sent; None: no date."""
    created_at_ms = None if after_s is None else SENT_MS + after_s * 1000
    facts: dict[str, Any] = {"model": MODEL, "status": "running", **changes}
    return ListedTask(name, created_at_ms, **facts)


def a_pass(*items: ListedTask, began_ms: int = LATE_MS, **changes: Any) -> Pass:
    """Return a complete pass that shows its control."""
    known = ListedTask(KNOWN, CONTROL.sent_at_ms, model=MODEL, status="succeeded")
    control = changes.pop("control", CONTROL)
    controls = {} if control is None else {DEFAULT_TIER: control}
    facts: dict[str, Any] = {"is_complete": True, "controls": controls, **changes}
    return Pass((*items, known), began_ms, began_ms + 1000, **facts)
