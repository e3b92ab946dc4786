"""Operators: what they do by commands, beside a running server, on the same database.

They look at the vendor's console before they decide, so what they say of a task is true.
"""

from random import Random
from typing import Final

from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.services import limiting, notifying, operating, resolving
from gateway.services.resolving import Decision, Verdict
from tests.simulation.machine import PROJECTS
from tests.simulation.rig import Rig

OPERATOR: Final = "operator"
_CAPS: Final = {
    Metric.MONEY: (500_000, 2_000_000, 10_000_000),
    Metric.VIDEOS: (0, 1, 3),
    Metric.SECONDS: (5, 15, 40),
    Metric.TOKENS: (60_000, 150_000, 1_000_000),
    Metric.TASKS: (1, 2, 4),
    Metric.RPM: (2, 10),
}
_OPEN: Final = (
    "SELECT t.id FROM tasks t JOIN reservations r ON r.task_id = t.id WHERE r.outcome IS NULL AND "
    "t.state IN ('unknown', 'failed') ORDER BY t.id"
)


def draw_limit(draws: Random) -> LimitSetting:
    """Return a limit of somebody; some of them leave no room at all, some are lifted again."""
    metric = draws.choice(tuple(_CAPS))
    is_windowed = metric not in {Metric.TASKS, Metric.RPM}
    scope = draws.choice((Scope.ORGANIZATION, Scope.PROJECT))
    scope_id = "" if scope is Scope.ORGANIZATION else f"proj_{draws.choice(PROJECTS)}"
    return LimitSetting(
        account=Account(scope, scope_id),
        metric=metric,
        window=draws.choice(tuple(Window)) if is_windowed else None,
        cap=draws.choice((*_CAPS[metric], None)),
    )


async def set_some_limit(rig: Rig, draws: Random) -> None:
    setting = draw_limit(draws)
    rig.trace(f"an operator sets {setting}")
    await rig.operate(lambda runtime: limiting.set_limit(runtime, OPERATOR, setting))


async def resolve_some(rig: Rig, draws: Random) -> None:
    """Decide of a task that nothing has explained so far, or try to take another's for it."""
    found = [row[0] for row in rig.store.driver.execute(_OPEN)]
    if not found:
        return
    task_id = draws.choice(found)
    decision = _decide(rig, task_id, draws)
    rig.trace(f"an operator says of {task_id}: {decision}")
    await rig.operate(lambda runtime: resolving.resolve(runtime, OPERATOR, task_id, decision))


def _decide(rig: Rig, task_id: str, draws: Random) -> Decision:
    made = [task for task in rig.world.own_tasks() if task.attempt_id == task_id]
    others = [
        row[0]
        for row in rig.store.driver.execute(
            "SELECT upstream_task_id FROM tasks WHERE upstream_task_id IS NOT NULL ORDER BY id"
        )
    ]
    if others and draws.random() < 1 / 4:
        return Decision(Verdict.FOUND, draws.choice(others), "a mistake")
    if not made:
        return Decision(Verdict.CHARGE, reason="nobody knows")
    if draws.random() < 1 / 2 or made[0].final != "succeeded":
        return Decision(Verdict.FOUND, made[0].id, "seen in the console")
    return Decision(Verdict.CHARGE, reason="it was billed")


async def redeliver_some(rig: Rig, draws: Random) -> None:
    """Have messages delivered once more: one of any state, or all that were given up."""
    rows = rig.store.driver.execute("SELECT id FROM notifications ORDER BY id")
    found = [row[0] for row in rows]
    if not found:
        return
    if draws.random() < 1 / 2:
        await rig.operate(lambda runtime: notifying.redeliver_dead(runtime, OPERATOR, None))
        return
    chosen = draws.choice(found)
    rig.trace(f"an operator has {chosen} delivered again")
    await rig.operate(lambda runtime: notifying.redeliver_one(runtime, OPERATOR, chosen))


async def cancel_some(rig: Rig, draws: Random) -> None:
    """Cancel some task that has not ended."""
    rows = rig.store.driver.execute(
        "SELECT id FROM tasks WHERE state IN ('reserved', 'unknown', 'queued', 'running') "
        "ORDER BY id"
    )
    found = [row[0] for row in rows]
    if not found:
        return
    chosen = draws.choice(found)
    rig.trace(f"an operator cancels {chosen}")
    await rig.operate(lambda runtime: operating.cancel(runtime, OPERATOR, chosen))


ACTS: Final = (set_some_limit, resolve_some, redeliver_some, cancel_some)
