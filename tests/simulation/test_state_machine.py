"""A state machine over all that can be done to a gateway: the promises hold after each step.

Hypothesis chooses the steps; the long run shrinks those that break a promise to the fewest. Time is
virtual; what a step begins goes on while later ones are made, unless they let it end.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Coroutine, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.simulation.clients import Temper, Wish
from tests.simulation.database import StoreWeather
from tests.simulation.machine import Machine, Settings
from tests.simulation.operators import ACTS
from tests.simulation.receivers import Receiver
from tests.simulation.rig import Conditions, Rig
from tests.simulation.run import Report, await_quiet, report_of, summarize
from tests.simulation.world import Echo, Fate, WorldWeather

DAY_MS = 86_400_000
SECONDS = st.sampled_from([0.0, 0.01, 0.3, 2.0, 31.0, 120.0, 900.0, 3600.0])
MOMENTS = st.sampled_from([0.0, 0.002, 0.05, 1.0])
SKEWS_MS = st.sampled_from([0, 3_600_000, -3_600_000, DAY_MS, -DAY_MS])
STORES = (
    StoreWeather(),
    StoreWeather(busy=0.5),
    StoreWeather(full=0.5),
    StoreWeather(answer_lost=0.5),
    StoreWeather(read_failed=0.5),
)
PATIENCE_S = st.sampled_from([None, None, 0.001, 0.02, 5.0])

# A process that is killed leaves work behind that was handed to a task and never begun.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


@cache
def a_machine() -> Machine:
    with tempfile.TemporaryDirectory() as folder:  # nothing of it is used later
        return Machine(Path(folder))


class GatewayUnderTest(RuleBasedStateMachine):
    """One deployment from its first start to the day on which nothing moves any more."""

    reports: ClassVar[list[Report]]

    def __init__(self) -> None:
        super().__init__()
        self.rig: Rig
        self.draws: Random
        self.under_way: list[asyncio.Task[Any]] = []

    # --- what is done -----------------------------------------------------------------------------

    @initialize(
        seed=st.integers(0, 2**32),
        has_callbacks=st.booleans(),
        is_exclusive=st.booleans(),
        policy=st.sampled_from(["hold", "release", "charge"]),
        echo=st.sampled_from(Echo),
        lag_s=st.sampled_from([0.0, 60.0]),
        receiver=st.sampled_from(Receiver),
        clients=st.lists(st.tuples(st.sampled_from(Fate), PATIENCE_S), min_size=1, max_size=4),
    )
    def begin(
        self,
        *,
        seed: int,
        has_callbacks: bool,
        is_exclusive: bool,
        policy: str,
        echo: Echo,
        lag_s: float,
        receiver: Receiver,
        clients: list[tuple[Fate, float | None]],
    ) -> None:
        """Start the gateway, with some clients who want something at once."""
        conditions = Conditions(
            settings=Settings(
                has_callbacks=has_callbacks, is_exclusive=is_exclusive, unknown_policy=policy
            ),
            world=WorldWeather(echo=echo, list_lag_s_max=lag_s),
            temper=Temper(keyed=0.5, calls_back=0.5, receivers=(receiver,)),
        )
        self.draws = Random(f"{seed}:steps")
        self.rig = Rig(a_machine(), seed, conditions, is_traced=True)
        self.do(self.rig.start())
        for fate, patience_s in clients:
            self.rig.world.next_fates.append(fate)
            self.submit(patience_s, 0.0)

    @rule(fate=st.sampled_from(Fate))
    def foresee(self, fate: Fate) -> None:
        """Decide what becomes of the next submission that is sent."""
        self.rig.world.next_fates.append(fate)

    @rule(patience_s=PATIENCE_S, pass_s=MOMENTS)
    def submit(self, patience_s: float | None, pass_s: float) -> None:
        wish = self.rig.clients.make_wish()
        self.begin_work(self.rig.clients.submit(wish, patience_s), pass_s)

    @precondition(lambda self: self.rig.clients.wishes)
    @rule(number=st.integers(0, 99), patience_s=PATIENCE_S, pass_s=MOMENTS)
    def submit_again(self, number: int, patience_s: float | None, pass_s: float) -> None:
        """Send a wish once more once its client knows what became of the last try."""
        wish = self.wish(number)
        if any(sent.ended_s is None for sent in wish.sends):
            return
        count = len(wish.sends)
        work = self.rig.clients.submit(wish, patience_s, repeat_count=count)
        self.begin_work(work, pass_s)

    @precondition(lambda self: any(wish.key for wish in self.rig.clients.wishes))
    @rule(number=st.integers(0, 99), pass_s=MOMENTS)
    def submit_another_body(self, number: int, pass_s: float) -> None:
        wish = self.wish(number)
        if wish.key is not None:
            self.begin_work(self.rig.clients.cheat(wish), pass_s)

    @precondition(lambda self: self.rig.clients.wishes)
    @rule(number=st.integers(0, 99), pass_s=MOMENTS)
    def read(self, number: int, pass_s: float) -> None:
        wish = self.wish(number)
        for task_id in self.told(wish):
            self.begin_work(self.rig.clients.poll(wish, task_id), pass_s)

    @precondition(lambda self: self.rig.clients.wishes)
    @rule(number=st.integers(0, 99), pass_s=MOMENTS)
    def cancel(self, number: int, pass_s: float) -> None:
        wish = self.wish(number)
        for task_id in self.told(wish):
            self.begin_work(self.rig.clients.cancel(wish, task_id), pass_s)

    @precondition(lambda self: self.rig.clients.wishes)
    @rule(number=st.integers(0, 99))
    def list_tasks(self, number: int) -> None:
        self.begin_work(self.rig.clients.list_own(self.wish(number)), 1.0)

    @rule(after_steps=st.integers(0, 40))
    @precondition(lambda self: self.is_up)
    def kill(self, after_steps: int) -> None:
        self.do(self.rig.kill(after_steps))

    @precondition(lambda self: self.is_up)
    @rule()
    def stop(self) -> None:
        self.do(self.rig.stop())

    @precondition(lambda self: not self.is_up)
    @rule()
    def restart(self) -> None:
        self.do(self.rig.start())

    @rule(pass_s=SECONDS)
    def wait(self, pass_s: float) -> None:
        self.do(asyncio.sleep(pass_s))

    @rule(skew_ms=SKEWS_MS)
    def set_clock(self, skew_ms: int) -> None:
        self.rig.jump(skew_ms)

    @rule(number=st.integers(0, 99), is_true=st.booleans(), pass_s=MOMENTS)
    def call_back(self, number: int, *, is_true: bool, pass_s: float) -> None:
        """Have the upstream call back once more, or somebody who knows an address lie."""
        tasks = self.rig.world.own_tasks()
        if not is_true:
            self.rig.world.forge()
        elif tasks:
            self.rig.world.call_back(tasks[number % len(tasks)])
        self.do(asyncio.sleep(pass_s))

    @rule(act=st.sampled_from(ACTS))
    def operate(self, act: Any) -> None:
        self.do(act(self.rig, self.draws))

    @rule(weather=st.sampled_from(STORES))
    def trouble_the_store(self, weather: StoreWeather) -> None:
        """Have the store do something wrong half of the time; or no more."""
        self.rig.store.weather = weather
        self.rig.oracle.truth.has_died = True  # as far as answers go that nobody can be sure of

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def keeps_its_promises(self) -> None:
        if hasattr(self, "rig"):
            self.judge(self.rig.oracle.judge_now())

    def teardown(self) -> None:
        """Let everything come to its end, and judge that."""
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        try:
            self.rig.store.weather = StoreWeather()
            if not self.is_up:
                self.do(rig.start())
            self.do(asyncio.wait(self.under_way) if self.under_way else asyncio.sleep(0))
            self.do(await_quiet(rig))
            self.judge(rig.oracle.judge())
            self.reports.append(report_of(rig))
        finally:
            rig.clear()

    # --- means ------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self.rig.process is not None and self.rig.process.is_serving

    def do(self, work: Awaitable[Any]) -> None:
        self.rig.loop.run_until_complete(work)

    def begin_work(self, work: Coroutine[Any, Any, Any], pass_s: float) -> None:
        """Have clients do something, and let some time pass, in which they may come to an end."""
        self.under_way.append(self.rig.loop.start(work))
        self.do(asyncio.sleep(pass_s))
        for done in [each for each in self.under_way if each.done()]:
            self.under_way.remove(done)
            done.result()

    def wish(self, number: int) -> Wish:
        wishes = self.rig.clients.wishes
        return wishes[number % len(wishes)]

    def told(self, wish: Wish) -> list[str]:
        return sorted({sent.task_id for sent in wish.sends if sent.task_id is not None})

    def judge(self, violations: Any) -> None:
        found = [*violations, *self.rig.complaints()]
        assert not found, "\n".join([*found, *self.rig.trace_lines[-60:]])


def run(
    examples_count: int, steps_count: int, phases: Sequence[Phase] = (Phase.generate,)
) -> list[Report]:
    """Try so many sequences of steps; return a report of each."""

    class Reporting(GatewayUnderTest):
        reports: ClassVar[list[Report]] = []

    run_state_machine_as_test(
        Reporting,
        settings=settings(
            max_examples=examples_count,
            stateful_step_count=steps_count,
            phases=phases,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Reporting.reports


def test_promises_hold_after_each_step() -> None:
    reports = run(examples_count=12, steps_count=40)

    assert sum(report.check_count for report in reports) > 240
    assert sum(report.task_count for report in reports) >= 12


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_promises_hold_after_each_step_of_many() -> None:
    phases = (Phase.generate, Phase.shrink)  # which may take its time
    reports = run(examples_count=1500, steps_count=60, phases=phases)

    print(f"\n{summarize(reports)}")
