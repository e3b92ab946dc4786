"""One simulated life: `python -m tests.simulation.run --seed N --trace` replays it step by step.

A seed decides everything: the weather upstream and of the store, who wishes what and how patiently,
when the process is killed, what its clock does meanwhile, and which of several ready steps is next.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.simulation.machine import Machine
from tests.simulation.operators import ACTS, set_some_limit
from tests.simulation.plan import Plan, make_plan
from tests.simulation.rig import Conditions, Rig

_DAY_S: Final = 86_400.0
HORIZON_S: Final = 14 * _DAY_S
"""When everything must be over: the longest wait for an unknown submission, by a clock that may be
a day wrong at either end, and the deliveries after that."""
_WISHES_WITHIN_S: Final = 60.0
_LOOK_S: Final = 5.0
_AFTERMATH_S: Final = 1200.0
"""How long after the last event of the world a last look is given its time."""


@dataclass(slots=True)
class Report:
    """What a run came to."""

    seed: int
    violations: Sequence[str] = ()
    digest: str = ""
    step_count: int = 0
    virtual_s: float = 0.0
    check_count: int = 0
    task_count: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        """What replays it."""
        return f"python -m tests.simulation.run --seed {self.seed} --trace"

    def describe(self) -> str:
        """Return what is wrong, and how to see it again."""
        lines = [f"seed {self.seed}: {len(self.violations)} violations", *self.violations]
        return "\n  ".join([*lines, f"replay: {self.command}"])


class Simulation:
    """One run of one plan."""

    def __init__(self, machine: Machine, plan: Plan, *, is_traced: bool = False) -> None:
        self._plan = plan
        conditions = Conditions(
            plan.settings, plan.world, plan.store, plan.journal, plan.temper, plan.epoch_ms
        )
        self.rig = Rig(machine, plan.seed, conditions, is_traced=is_traced)
        self._draws = Random(f"{plan.seed}:operator")

    def run(self) -> Report:
        """Run to the end and judge."""
        rig = self.rig
        try:
            rig.loop.run_until_complete(self._live())
            rig.oracle.judge()
            return report_of(rig)
        finally:
            rig.clear()

    async def _live(self) -> None:
        rig, plan, loop = self.rig, self._plan, self.rig.loop
        await rig.start()
        others = [loop.start(work) for work in (self._strike(), self._jump(), self._operate())]
        await loop.start(rig.clients.run(plan.wishes_count, within_s=_WISHES_WITHIN_S))
        for other in others:
            await other
        await await_quiet(rig)

    async def _strike(self) -> None:
        """End the process as planned, and start it again."""
        for kill in sorted(self._plan.kills, key=lambda kill: kill.at_s):
            await self._sleep_until(kill.at_s)
            if kill.is_graceful:
                await self.rig.stop()
            else:
                await self.rig.kill(kill.after_steps)
            await asyncio.sleep(kill.down_s)
            await self.rig.start()

    async def _jump(self) -> None:
        for jump in sorted(self._plan.jumps, key=lambda jump: jump.at_s):
            await self._sleep_until(jump.at_s)
            self.rig.jump(jump.skew_ms)

    async def _operate(self) -> None:
        """Let an operator do this and that, most of it while clients are busy."""
        draws = self._draws
        for number in range(self._plan.acts_count):
            is_first = number == 0
            await asyncio.sleep(draws.choice((10, 40, 10 if is_first else 600)) * draws.random())
            act = set_some_limit if is_first else draws.choice(ACTS)
            await act(self.rig, draws)

    async def _sleep_until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, at_s - self.rig.loop.time()))


def report_of(rig: Rig) -> Report:
    """Return what a run has come to."""
    return Report(
        rig.seed,
        [*rig.oracle.violations, *rig.complaints()],
        rig.digest(),
        rig.loop.step_count,
        rig.loop.time(),
        rig.oracle.check_count,
        len(rig.world.own_tasks()),
        rig.faults(),
        rig.trace_lines,
    )


async def await_quiet(rig: Rig) -> None:
    """Let time pass until nothing more is to be expected, and then some more."""
    loop = rig.loop
    began_s = rig.quiet_from_s = loop.time()
    quiet_s = 0.0
    while loop.time() - began_s < HORIZON_S:
        await asyncio.sleep(rig.pace(_LOOK_S))
        quiet_s = 0.0 if not rig.oracle.is_quiet() else quiet_s or loop.time()
        if quiet_s and loop.time() - quiet_s >= _AFTERMATH_S:
            break


def run_seed(machine: Machine, seed: int, *, is_traced: bool = False) -> Report:
    """Run one seed."""
    return Simulation(machine, make_plan(seed), is_traced=is_traced).run()


def summarize(reports: Iterable[Report]) -> str:
    """Return a table of what was survived."""
    reports = list(reports)
    faults: Counter[str] = Counter()
    seeds: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
        seeds.update(report.faults.keys())
    numbers = [report.seed for report in reports]
    wrong = [report for report in reports if report.violations]
    sums = {
        "upstream tasks": sum(report.task_count for report in reports),
        "steps": sum(report.step_count for report in reports),
        "checks": sum(report.check_count for report in reports),
        "days of virtual time": int(sum(report.virtual_s for report in reports) / _DAY_S),
    }
    lines = [
        f"seeds {min(numbers)} to {max(numbers)}: {len(reports)} runs, {len(wrong)} wrong",
        ", ".join(f"{count} {name}" for name, count in sums.items()),
        f"{'fault survived':<28} {'times':>9} {'seeds':>7}",
        *(f"{name:<28} {faults[name]:>9} {seeds[name]:>7}" for name in sorted(faults)),
        *(report.describe() for report in wrong),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds from the command line; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1, help="so many seeds, from --seed on")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    options = parser.parse_args(arguments)
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        for seed in range(options.seed, options.seed + options.count):
            report = run_seed(machine, seed, is_traced=options.trace)
            reports.append(report)
            for line in report.trace:
                print(line)
            print(
                report.describe()
                if report.violations
                else f"seed {seed}: {report.task_count} tasks, {report.step_count} steps, "
                f"{report.virtual_s:.0f} s, {report.digest}"
            )
    if options.count > 1:
        print(summarize(reports))
    return int(any(report.violations for report in reports))


if __name__ == "__main__":
    sys.exit(main())
