"""Deterministic simulation: whatever the weather, no seed loses a task or pays for one twice."""

from collections.abc import Iterator

import pytest

from tests.simulation.machine import Machine
from tests.simulation.plan import make_plan
from tests.simulation.run import Report, Simulation, run_seed, summarize

SAMPLE_COUNT = 60
LONG_COUNT = 10_000
CHUNK_COUNT = 100
SURVIVED = (
    *("kill", "graceful stop", "clock jump", "store busy", "store full", "store answer lost"),
    *("slow", "not sent", "rejected", "throttled", "account", "lost before create"),
    *("lost after create", "late create", "very late create", "list failed", "page shifted"),
    *("read failed", "read missing", "read stale", "read odd", "cancel lost", "callback lost"),
    *("callback repeated", "uncounted", "receiver dead", "receiver slow", "receiver flaky"),
)
"""What must have happened in a good sample."""

# A process that is killed leaves work behind that was handed to a task and never begun.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@pytest.fixture(scope="module")
def tally() -> Iterator[list[Report]]:
    """Return where reports go whose table is printed in the end."""
    reports: list[Report] = []
    yield reports
    if reports:
        print(f"\n{summarize(reports)}")


def run_seeds(machine: Machine, first: int, count: int, tally: list[Report]) -> list[str]:
    """Run some seeds; return what is wrong, with how to see it again."""
    reports = [run_seed(machine, seed) for seed in range(first, first + count)]
    tally += reports
    return [report.describe() for report in reports if report.violations]


def test_no_seed_of_a_sample_breaks_a_promise(machine: Machine) -> None:
    reports: list[Report] = []

    wrong = run_seeds(machine, 1, SAMPLE_COUNT, reports)

    print(f"\n{summarize(reports)}")
    assert wrong == []
    assert set(SURVIVED) <= {fault for report in reports for fault in report.faults}


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1, LONG_COUNT + 1, CHUNK_COUNT))
def test_no_seed_breaks_a_promise(machine: Machine, first: int, tally: list[Report]) -> None:
    assert run_seeds(machine, first, CHUNK_COUNT, tally) == []


def test_a_seed_makes_the_same_steps_each_time_also_when_it_is_watched(machine: Machine) -> None:
    for seed in (3, 5, 8):
        first, second = run_seed(machine, seed), run_seed(machine, seed)
        watched = run_seed(machine, seed, is_traced=True)

        assert first.digest == second.digest == watched.digest
        assert first.step_count == watched.step_count
        assert watched.trace
        assert not first.trace


def test_seeds_differ(machine: Machine) -> None:
    assert run_seed(machine, 1).digest != run_seed(machine, 2).digest


def test_what_is_wrong_is_told_with_the_command_that_replays_it(machine: Machine) -> None:
    simulation = Simulation(machine, make_plan(4))
    simulation.rig.clients.complaints.append("nobody was asked")

    told = simulation.run().describe()

    assert "client: nobody was asked" in told
    assert "python -m tests.simulation.run --seed 4 --trace" in told
