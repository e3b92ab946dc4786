"""Whether a listed task can have come of an attempt: by its marker, its date and its shape.

A task is ruled out only by what it shows: a list shows little of a task that is queued or runs, and
some upstreams show little of any.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.attempts import Attempt, ListedTask, Shape
from gateway.domain.markers import find_safety_marker

DEFAULT_TIER: Final = "default"
"""The service tier that a list shows without a filter, if nothing else."""
_DAY_MS: Final = 86_400_000
_ENDPOINT_PREFIX: Final = "ep-"
_ADAPTIVE: Final = "adaptive"
_OPEN_ENDED: Final = -1


class Standing(StrEnum):
    """What is known of an attempt whose upstream task is not."""

    IN_FLIGHT = "in_flight"  # its answer may still come, and brings the id
    LOST = "lost"  # its task is `unknown`
    GIVEN_UP = "given_up"  # absent, disputed, past the horizon, or resolved by an operator


@dataclass(frozen=True, slots=True)
class Policy:
    """How an upstream account is judged."""

    exclusion: bool = False
    """The credential's account is used by this gateway and nothing else."""
    dedicated_since_ms: int = 0
    """Since when that is so: older tasks of nobody's are no sign of the contrary."""
    echoes_seed: bool = False
    """It was seen to list the seed that it was sent: another one then excludes."""
    echoes_expires_after: bool = False
    echoes_safety_identifier: bool = False
    skew_ms: int = 60_000
    """How far the upstream's clock may be from ours. A wider window is a more careful one."""
    late_ms: int = 15 * 60_000
    """How long after its deadline an attempt may still create a task; at most `quiet_ms`."""
    quiet_ms: int = 15 * 60_000
    """How long after its deadline nothing is concluded from an attempt's absence."""
    list_lag_ms: int = 60_000
    """How late a new task may be listed, as a rule."""
    list_span_ms: int = 6 * _DAY_MS + _DAY_MS // 2
    """How far back the list is believed; it forgets after seven days."""
    pass_count_min: int = 3
    doubted_ms: tuple[int, int] | None = None
    """Dates that the clock was set past, or back over. What was dated before them, in them and
    after them has no order, and no date that could be compared."""
    lost_ms: tuple[int, int] | None = None
    """Between which dates tasks were made that a restore of the database has lost."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An attempt that may have a task which we don't know."""

    attempt: Attempt
    deadline_at_ms: int
    standing: Standing = Standing.LOST
    lost_at_ms: int = 0
    """When its task became `unknown`."""
    is_called_back: bool = False
    """Its callback address was called, whatever the call said: it is not absent."""
    service_tier: str = DEFAULT_TIER


def window_ms(sent: Sent, policy: Policy) -> tuple[int, int]:
    """Return between which dates of the upstream's an attempt can have made a task."""
    return (
        sent.attempt.created_at_ms - policy.skew_ms,
        sent.deadline_at_ms + policy.late_ms + policy.skew_ms,
    )


def is_timely(sent: Sent, task: ListedTask, policy: Policy) -> bool | None:
    """Whether a task was made in the attempt's window; None if it has no date."""
    if task.created_at_ms is None:
        return None
    start_ms, end_ms = window_ms(sent, policy)
    return start_ms <= task.created_at_ms <= end_ms


def may_be_lost(task: ListedTask, policy: Policy) -> bool:
    """Whether a task of nobody's may be one that a restore has lost."""
    if policy.lost_ms is None:
        return False
    first_ms, last_ms = policy.lost_ms
    return (
        task.created_at_ms is None
        or first_ms - policy.skew_ms
        <= task.created_at_ms
        <= last_ms + policy.late_ms + policy.skew_ms
    )


def may_be_restored(sent: Sent, policy: Policy) -> bool:
    """Whether a task of an attempt's time may as well be one that a restore has lost."""
    if policy.lost_ms is None:
        return False
    start_ms, end_ms = window_ms(sent, policy)
    return start_ms <= policy.lost_ms[1] and end_ms >= policy.lost_ms[0]


def is_too_early(sent: Sent, task: ListedTask, policy: Policy) -> bool:
    """Whether a task was made before the attempt was sent."""
    return task.created_at_ms is not None and task.created_at_ms < window_ms(sent, policy)[0]


def share_a_clock(dates_ms: Iterable[int], policy: Policy) -> bool:
    """Whether dates can be compared: all of them from before the clock was set, or from after."""
    if policy.doubted_ms is None:
        return True
    first_ms, last_ms = policy.doubted_ms
    sides = {-1 if at_ms < first_ms else int(at_ms > last_ms) for at_ms in dates_ms}
    return 0 not in sides and len(sides) <= 1


def is_marked(sent: Sent, task: ListedTask) -> bool:
    markers = sent.attempt.markers
    return (markers.seed is not None and markers.seed == task.seed) or (
        markers.safety_identifier is not None
        and markers.safety_identifier == find_safety_marker(task.safety_identifier)
    )


def contradicts(sent: Sent, task: ListedTask, policy: Policy) -> bool:
    """Whether a task shows something that can't have come of the attempt."""
    markers = sent.attempt.markers
    return (
        _is_other_shape(sent.attempt.shape, task)
        or (policy.echoes_seed and _differ(markers.seed, task.seed))
        or (policy.echoes_expires_after and _differ(markers.expires_after_s, task.expires_after_s))
        or (
            policy.echoes_safety_identifier
            and task.safety_identifier is not None
            and _differ(markers.safety_identifier, find_safety_marker(task.safety_identifier) or "")
        )
    )


def _is_other_shape(shape: Shape, task: ListedTask) -> bool:
    return (
        _is_other_model(shape.deployment, task.model)
        or _differ(_fold(shape.resolution), _fold(task.resolution))
        or (_ADAPTIVE not in {shape.ratio, task.ratio} and _differ(shape.ratio, task.ratio))
        or (
            _OPEN_ENDED not in {shape.duration_s, task.duration_s}
            and _differ(shape.duration_s, task.duration_s)
        )
    )


def _is_other_model(deployment: str, model: str | None) -> bool:
    if model is None:
        return False
    endpoint_count = sum(name.startswith(_ENDPOINT_PREFIX) for name in (deployment, model))
    if endpoint_count == 2:
        return deployment != model
    # The list shows the full id of the model: also for an endpoint, and for a shorter name of it.
    ours, theirs = deployment.casefold(), model.casefold()
    return endpoint_count == 0 and ours not in theirs and theirs not in ours


def _differ(ours: object, theirs: object) -> bool:
    """Whether both are known, and not the same."""
    return ours is not None and theirs is not None and ours != theirs


def _fold(word: str | None) -> str | None:
    return None if word is None else word.casefold()
