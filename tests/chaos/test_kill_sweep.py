"""Killed at any call, the gateway recovers by itself: nothing lost, nothing twice, books right."""

import random

import pytest

from tests.chaos.bench import Bench
from tests.chaos.sweep import OUTCOMES, Scene, Tally, choose_points, sweep
from tests.support.strace import Injection

pytestmark = pytest.mark.timeout(400)

SEED = 20261124
SAMPLE_COUNT = 14
FAULTY_SAMPLE_COUNT = 6
POINTS_COUNT_MIN = 500
FAILING_CALLS = ("pwrite64", "write", "fsync", "fdatasync", "ftruncate", "openat")
FAULTS = (
    ("error=EIO", False),
    ("error=ENOSPC", True),
    ("error=EIO", True),
    ("error=ENOSPC", False),
)

QUIET_CALLS = ("recvfrom", "recvmsg", "fcntl", "openat", "close")
"""Between two that change something, it makes no difference at which of many such a flow dies."""
QUIET_STEP = 4
FAULTY_STEP = 2

Points = list[tuple[Scene, Injection]]


def test_a_sample_of_kills_loses_nothing(bench: Bench, points: Points) -> None:
    tally = sweep(bench, choose_points(points, SAMPLE_COUNT, SEED))

    print_tally(tally)
    assert tally.differences == []
    assert sum(trial.was_hit for trial in tally.trials) >= SAMPLE_COUNT // 2


def test_a_sample_of_failing_calls_loses_nothing(bench: Bench, points: Points) -> None:
    tally = sweep(bench, choose_points(make_faulty(points), FAULTY_SAMPLE_COUNT, SEED))

    print_tally(tally)
    assert tally.differences == []


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_kill_at_every_call_that_counts_loses_nothing(bench: Bench, points: Points) -> None:
    quiet = [point for point in points if point[1].call in QUIET_CALLS]
    loud = [point for point in points if point[1].call not in QUIET_CALLS]

    tally = sweep(bench, [*loud, *quiet[::QUIET_STEP]])

    print_tally(tally)
    assert tally.differences == []
    # Two runs of a flow don't make the same number of calls to the last one.
    assert sum(trial.was_hit for trial in tally.trials) >= POINTS_COUNT_MIN
    assert {trial.outcome for trial in tally.trials} == set(OUTCOMES)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_disk_that_fails_at_any_call_loses_nothing(bench: Bench, points: Points) -> None:
    tally = sweep(bench, make_faulty(points)[::FAULTY_STEP])

    print_tally(tally)
    assert tally.differences == []


def make_faulty(points: Points) -> Points:
    """Return the points at which a disk may fail, each with one fault, once or from then on."""
    failing = [(scene, each) for scene, each in points if each.call in FAILING_CALLS]
    source = random.Random(SEED)
    return [
        (scene, Injection(each.call, each.number, *source.choice(FAULTS)))
        for scene, each in failing
    ]


def print_tally(tally: Tally) -> None:
    print(f"\nseed {SEED}\n{tally.render()}")
    for difference in tally.differences:
        print(difference)
