from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.schedule import Fallback, Pace, next_fallback_s, next_look_s

PACE = Pace(interval_s_min=3, interval_s_max=60, jitter=0.1)
STILL = Pace(interval_s_min=3, interval_s_max=60, jitter=0)
FALLBACK = Fallback(run_share=2, interval_s_min=60, interval_s_max=600)


def looks_within(total_s: float, typical_run_s: float, pace: Pace = STILL) -> int:
    """How many looks a task gets that runs for `total_s`."""
    age_s, count = 0.0, 0
    while True:
        age_s += next_look_s(pace, typical_run_s, age_s, 0.0)
        if age_s > total_s:
            return count
        count += 1


def test_three_minutes_of_a_typical_task_cost_twelve_looks_at_most() -> None:
    assert looks_within(180, typical_run_s=120) <= 12


def test_a_task_of_two_days_is_looked_at_once_a_minute_at_most() -> None:
    assert looks_within(172_800, typical_run_s=120) <= 172_800 / 60 + 20


def test_time_scale_leaves_the_number_of_looks_as_it_is() -> None:
    fast = Pace(interval_s_min=3, interval_s_max=60, jitter=0, time_scale=20)

    assert looks_within(9, typical_run_s=120, pace=fast) == looks_within(180, typical_run_s=120)


@given(
    typical_run_s=st.floats(1, 10_000),
    age_s=st.floats(0, 10**6),
    spread=st.floats(-1, 1),
)
def test_every_delay_is_within_its_bounds(
    typical_run_s: float, age_s: float, spread: float
) -> None:
    delay_s = next_look_s(PACE, typical_run_s, age_s, spread)

    assert 3 * 0.9 <= delay_s <= 60 * 1.1


def fallbacks_within(total_s: float, typical_run_s: float) -> list[float]:
    """At which ages a task is looked at whose callbacks come, and then no more."""
    age_s = 0.0
    ages_s: list[float] = []
    while True:
        age_s += next_fallback_s(STILL, FALLBACK, typical_run_s, age_s, 0.0)
        if age_s > total_s:
            return ages_s
        ages_s.append(age_s)


def test_a_task_that_calls_back_is_looked_at_first_when_it_is_late() -> None:
    assert fallbacks_within(239, typical_run_s=120) == []
    assert fallbacks_within(600, typical_run_s=120) == [240, 360, 540]


def test_a_callback_that_never_comes_costs_ten_minutes_more_at_most() -> None:
    ages_s = [0, *fallbacks_within(86_400, typical_run_s=90)]

    assert max(later - age for age, later in pairwise(ages_s)) <= 600
    assert len(ages_s) < 86_400 / 600 + 10


@given(typical_run_s=st.floats(1, 10_000), age_s=st.floats(0, 10**6), spread=st.floats(-1, 1))
def test_every_fallback_is_within_its_bounds(
    typical_run_s: float, age_s: float, spread: float
) -> None:
    delay_s = next_fallback_s(PACE, FALLBACK, typical_run_s, age_s, spread)

    assert 60 * 0.9 <= delay_s <= 600 * 1.1
