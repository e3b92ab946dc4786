"""What a seed decides beforehand: the weather, the deployment, the clients, the kills.

Faults come in swarms: each seed has some kinds of them, and none of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Final
from zoneinfo import ZoneInfo

from tests.simulation.clients import Temper
from tests.simulation.clock import EPOCH_MS
from tests.simulation.database import StoreWeather
from tests.simulation.journal import JournalWeather
from tests.simulation.machine import Settings
from tests.simulation.receivers import Receiver
from tests.simulation.world import Echo, Fate, WorldWeather

_DAY_MS: Final = 86_400_000
_SHARES: Final = (0.03, 0.1, 0.25)
_FAULTY: Final = 0.4


@dataclass(frozen=True, slots=True)
class Kill:
    """The process ends so many steps after a time, and stays away for a while."""

    at_s: float
    after_steps: int
    down_s: float
    is_graceful: bool = False
    """It is told to stop, and finishes what it has begun."""


@dataclass(frozen=True, slots=True)
class Jump:
    """From some moment on, the gateway's clock is wrong by this much."""

    at_s: float
    skew_ms: int


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a seed decides beforehand."""

    seed: int
    wishes_count: int
    settings: Settings
    world: WorldWeather
    store: StoreWeather
    journal: JournalWeather
    temper: Temper
    kills: Sequence[Kill]
    jumps: Sequence[Jump]
    acts_count: int
    """How often an operator does something."""
    epoch_ms: int
    """When it begins: on some day, or shortly before a month ends where the books are kept."""


def make_plan(seed: int) -> Plan:
    """Draw the plan of a seed."""
    draws = Random(f"{seed}:plan")
    settings = _draw_settings(draws)
    return Plan(
        seed=seed,
        wishes_count=draws.randrange(2, 7),
        settings=settings,
        world=_draw_world(draws),
        store=_draw_store(draws),
        journal=JournalWeather(full=_share(draws), answer_lost=_share(draws)),
        temper=Temper(
            keyed=draws.choice((0.0, 0.6, 1.0)),
            impatient=draws.choice((0.0, 0.4)),
            receivers=tuple(draws.choices(tuple(Receiver), k=2)),
        ),
        kills=[_draw_kill(draws) for _ in range(draws.choice((0, 1, 1, 2, 3)))],
        jumps=[_draw_jump(draws) for _ in range(draws.choice((0, 0, 1, 2)))],
        acts_count=draws.choice((0, 1, 2, 4)),
        epoch_ms=_draw_epoch_ms(draws, settings.timezone),
    )


def _draw_settings(draws: Random) -> Settings:
    return Settings(
        has_callbacks=draws.random() < 0.5,
        is_exclusive=draws.random() < 0.3,
        marks_identifier=draws.random() < 0.3,
        marks_expiry=draws.random() < 0.2,
        unknown_policy=draws.choice(("hold", "hold", "release", "charge")),
        timezone=draws.choice(("UTC", "Asia/Shanghai", "America/New_York")),
        sink=draws.choice((Receiver.GOOD, *Receiver)),
    )


def _draw_world(draws: Random) -> WorldWeather:
    shares: dict[Fate, float] = {fate: _share(draws) for fate in Fate if fate is not Fate.TAKEN}
    total = sum(shares.values())
    fates = {fate: share / max(1.0, total / 0.8) for fate, share in shares.items() if share}
    return WorldWeather(
        fates=fates,
        echo=draws.choice((Echo.ALWAYS, Echo.ALWAYS, Echo.PARTLY, Echo.WHEN_ENDED, Echo.NEVER)),
        list_lag_s_max=draws.choice((0.0, 5.0, 60.0)),
        list_failed=_share(draws),
        page_shifted=_share(draws),
        entry_unreadable=_share(draws),
        tells_total=draws.random() < 0.7,
        read_failed=_share(draws),
        read_missing=_share(draws) / 2,
        read_stale=_share(draws),
        read_odd=_share(draws),
        cancel_lost=_share(draws),
        callback_lost=_share(draws),
        callback_repeated=_share(draws),
        callbacks_forged=draws.choice((0, 0, 3)),
        foreign_count=draws.choice((0, 0, 1, 4)),
        stuck=draws.choice((0.0, 0.0, 0.0, 0.1)),
        uncounted=draws.choice((0.0, 0.0, 0.2)),
        latency_s_max=draws.choice((0.01, 0.5)),
    )


def _draw_store(draws: Random) -> StoreWeather:
    begin_s = draws.uniform(0, 120)
    is_out = draws.random() < 0.15
    return StoreWeather(
        busy=_share(draws) / 2,
        full=_share(draws) / 2,
        answer_lost=_share(draws) / 2,
        read_failed=_share(draws) / 4,
        outage_s=(begin_s, begin_s + draws.choice((10, 60, 300))) if is_out else (0.0, 0.0),
        latency_s_max=draws.choice((0.001, 0.05)),
    )


def _share(draws: Random) -> float:
    return draws.choice(_SHARES) if draws.random() < _FAULTY else 0.0


def _draw_kill(draws: Random) -> Kill:
    return Kill(
        at_s=draws.uniform(0, draws.choice((70, 300))),
        after_steps=draws.randrange(60),
        down_s=draws.choice((0.1, 5.0, 300.0)) * draws.uniform(0.5, 1.5),
        is_graceful=draws.random() < 0.2,
    )


def _draw_jump(draws: Random) -> Jump:
    skew_ms = draws.choice((0, _DAY_MS, -_DAY_MS, 3_600_000, -30_000))
    return Jump(at_s=draws.uniform(0, draws.choice((70, 600))), skew_ms=skew_ms)


def _draw_epoch_ms(draws: Random, timezone: str) -> int:
    before_s = draws.uniform(0, 120)
    if draws.random() < 2 / 3:
        return EPOCH_MS
    month_end = datetime(2026, 11, 1, tzinfo=ZoneInfo(timezone))
    return int((month_end.timestamp() - before_s) * 1000)
