"""When the observer looks at a task again.

A look costs an upstream read, and no look can make a video ready sooner. So the schedule follows
the family's typical running time: the first look comes when something can have happened, the next
ones at an eighth of that time, and once a task is late they grow apart up to a limit.

Where the upstream calls back, each call brings a look, and the schedule is only there for the call
that never comes: one look when the task is late, and few after it.
"""

from dataclasses import dataclass
from typing import Final

_FIRST: Final = 0.15
_STEP: Final = 0.125
_LATE_FROM: Final = 1.5
_LATE_STEP: Final = 0.2
_FALLBACK_STEP: Final = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds of the time between two looks, in seconds, and the share of it that is random.

    `time_scale` divides every duration: a simulated upstream may run faster than time.
    """

    interval_s_min: float
    interval_s_max: float
    jitter: float
    time_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """The same for tasks whose callbacks come, and when the first look is: in typical run times."""

    run_share: float
    interval_s_min: float
    interval_s_max: float


def next_look_s(pace: Pace, typical_run_s: float, age_s: float, spread: float) -> float:
    """Return the seconds from now until the next look at a task that is `age_s` old.

    `spread` is a random number in [-1, 1]: it keeps tasks that began together from being due
    together.
    """
    age_s = age_s * pace.time_scale
    if age_s < _FIRST * typical_run_s:
        delay_s = _FIRST * typical_run_s - age_s
    elif age_s < _LATE_FROM * typical_run_s:
        delay_s = _STEP * typical_run_s
    else:
        delay_s = _LATE_STEP * age_s
    return _spread(pace, delay_s, pace.interval_s_min, pace.interval_s_max, spread)


def next_fallback_s(
    pace: Pace, fallback: Fallback, typical_run_s: float, age_s: float, spread: float
) -> float:
    """Return the same for a task whose callbacks come: it has to be looked at if one is lost."""
    age_s = age_s * pace.time_scale
    first_s = fallback.run_share * typical_run_s
    delay_s = first_s - age_s if age_s < first_s else _FALLBACK_STEP * age_s
    return _spread(pace, delay_s, fallback.interval_s_min, fallback.interval_s_max, spread)


def _spread(pace: Pace, delay_s: float, least_s: float, most_s: float, spread: float) -> float:
    bounded_s = min(max(delay_s, least_s), most_s)
    return bounded_s * (1 + pace.jitter * spread) / pace.time_scale
