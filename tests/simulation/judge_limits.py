"""The judge of limits: what is admitted stays within every cap, at any moment.

A settlement may pass a cap, an admission may not. So a task counts for what was held for it, or for
what it was charged if that was less; and a cap that was lowered below what was used already counts
as that use.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.truth import TERMINAL, Truth

_COLUMNS: Final = {
    "money": ("hold_micros", "charge_micros"),
    "tokens": ("held_tokens", "tokens"),
    "seconds": ("held_seconds", "seconds"),
    "videos": ("held_videos", "videos"),
}
_ACCOUNTS: Final = {"org": "''", "project": "r.project_id", "key": "r.key_id"}
_STARTS: Final = {"day": "r.day_start_ms", "month": "r.month_start_ms", "ever": "0"}

Place = tuple[str, str, str, str]
"""Scope, its id, metric, window."""


@dataclass(slots=True)
class LimitJudge:
    """Remembers which caps held when."""

    caps: dict[Place, int] = field(default_factory=dict)
    allowances: dict[tuple[Place, int], int] = field(default_factory=dict)
    """By cap and beginning of its window: what may be used, if that is more than the cap."""

    def judge(self, truth: Truth) -> Iterator[str]:
        """P4: nothing was admitted beyond a cap. Called behind every commit."""
        rows = truth.rows("SELECT scope, scope_id, metric, span, cap FROM limits")
        caps = {(row[0], row[1], row[2], row[3]): row[4] for row in rows if row[4] is not None}
        for place, cap in caps.items():
            if place[2] == "rpm":
                continue
            is_new = self.caps.get(place) != cap
            for start_ms, used in _use_of(truth, place).items():
                if is_new:
                    self.allowances[place, start_ms] = max(cap, used)
                allowed = self.allowances.get((place, start_ms), cap)
                if used > allowed:
                    yield f"P4: {place} of {cap} is used for {used}"
                self.allowances[place, start_ms] = max(cap, min(allowed, used))
        self.caps = caps


def _use_of(truth: Truth, place: Place) -> Mapping[int, int]:
    """Return what counts for a cap, by the beginning of its window."""
    scope, scope_id, metric, span = place
    account = _ACCOUNTS[scope]
    if metric == "tasks":
        marks = ", ".join(f"'{state}'" for state in TERMINAL)
        query = (
            "SELECT 0, COUNT(*) FROM tasks r "  # noqa: S608 - of words that are written here
            f"WHERE {account} = ? AND state NOT IN ({marks})"
        )
    else:
        held, spent = _COLUMNS[metric]
        query = (
            f"SELECT {_STARTS[span]}, SUM(MIN({held}, COALESCE({spent}, {held}))) "  # noqa: S608
            f"FROM reservations r WHERE {account} = ? GROUP BY 1"
        )
    found: list[sqlite3.Row] = truth.rows(query, scope_id)
    return {row[0]: row[1] for row in found}
