"""Operators: what they do by commands, beside a running server, on the same database."""

from random import Random
from typing import Final

from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.services import limiting
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


async def resolve_unknown(rig: Rig, draws: Random) -> None:
    """Nothing to do yet."""
    del rig, draws
