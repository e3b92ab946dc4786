"""What is known of one run: the books by plain SQL, the world's own record, what clients saw.

Nothing here shares code with what is judged by it.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.clients import Clients
from tests.simulation.gateway import Site
from tests.simulation.world import Echo, Fate, Received, WorldTask

TERMINAL: Final = ("succeeded", "failed", "cancelled", "expired", "rejected")
DEFINITE_NO: Final = (Fate.REJECTED, Fate.THROTTLED, Fate.ACCOUNT)
QUIET_MS: Final = 15 * 60_000
SKEW_MS: Final = 60_000
HORIZON_CODE: Final = "SubmissionOutcomeUnknown"


@dataclass(slots=True)
class Truth:
    """The means to find out."""

    site: Site
    clients: Clients
    loop_names: Sequence[str] = ()
    """The loops that the gateway runs: what none of them does is not asked for."""

    released_s: dict[str, float] = field(default_factory=dict)
    """By attempt, when its hold was let go of."""
    callback_urls: dict[str, str] = field(default_factory=dict)
    """By attempt, the address that its client gave: the books forget it when the task has ended."""
    skews_ms: dict[str, int] = field(default_factory=dict)
    """By attempt, how wrong the gateway's clock was when it was admitted."""
    has_died: bool = False
    """Whether a process ended so far."""
    jumps_s: list[float] = field(default_factory=list)
    """When the gateway's clock jumped."""

    @property
    def is_calm(self) -> bool:
        """Whether no process died, and the store did whatever was asked of it."""
        weather = self.site.store.weather
        shares = (weather.busy, weather.full, weather.answer_lost, weather.read_failed)
        return not (any(shares) or weather.outage_s[1] or self.has_died)

    @property
    def resolves_unknown(self) -> bool:
        return any("reconcile" in name for name in self.loop_names)

    @property
    def delivers(self) -> bool:
        return any("deliver" in name or "webhook" in name for name in self.loop_names)

    @property
    def moving_states(self) -> Sequence[str]:
        """The states in which no task may stay."""
        return ["reserved", "queued", "running"] + ["unknown"] * self.resolves_unknown

    def row(self, query: str, *values: object) -> sqlite3.Row | None:
        rows = self.rows(query, *values)
        return rows[0] if rows else None

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        cursor = self.site.store.driver.execute(query, values)
        cursor.row_factory = sqlite3.Row
        return cursor.fetchall()

    def now_s(self) -> float:
        return self.site.loop.time()

    def received_for(self, attempt_id: str | None) -> list[Received]:
        """Return the paid POSTs of an attempt, in order."""
        return [each for each in self.site.world.received if each.attempt_id == attempt_id]

    def received_of(self, prompt: str) -> list[Received]:
        """Return the paid POSTs for a prompt, in order."""
        return [each for each in self.site.world.received if each.prompt == prompt]

    def fate_of(self, task: WorldTask) -> Fate | None:
        found = self.received_for(task.attempt_id)
        return found[-1].fate if found else None

    def made_for(self, attempt_id: str) -> list[WorldTask]:
        return [each for each in self.site.world.own_tasks() if each.attempt_id == attempt_id]

    def is_late(self, task: WorldTask) -> bool:
        """Whether a task was made when its absence was rightly taken for proved, or for provable.

        That is the quiet time after the deadline: what an upstream makes later is not waited for.
        """
        if self.fate_of(task) is not Fate.VERY_LATE:
            return False
        released_s = self.released_s.get(task.attempt_id or "")
        if released_s is not None and task.created_s > released_s:
            return True
        row = self.row(
            "SELECT submit_deadline_at_ms - created_at_ms FROM tasks WHERE id = ?", task.attempt_id
        )
        assert row is not None
        sent_s = self.received_for(task.attempt_id)[-1].at_s
        return bool(task.created_s >= sent_s + (row[0] + QUIET_MS) / 1000)

    def is_misdated(self, attempt_id: str | None) -> bool:
        """Whether an attempt was sent while the clock was more wrong than windows in time bear."""
        return abs(self.skews_ms.get(attempt_id or "", 0)) > SKEW_MS

    def is_given_up(self, task: WorldTask) -> bool:
        """Whether nothing could tell that a task came of its attempt, and the wait is over.

        Not promised: to tell a task that was made long after its absence was proved, and carries
        nothing of ours, from those of other software on the account; or one whose attempt nothing
        has explained, by list or callback, until its horizon, which is alarmed and booked; or one
        that carries nothing of ours and whose attempt has a wrong date; or one whose attempt was
        given a stranger's.
        """
        if self.is_late(task) and not self.is_recognizable(task):
            return True
        row = self.row(
            "SELECT state, error, upstream_task_id FROM tasks WHERE id = ?", task.attempt_id
        )
        if row is None:
            return False
        if self.has_strangers(task.attempt_id):
            return True
        if row["state"] != "failed" or row["error"] is None:
            return False
        if self.is_misdated(task.attempt_id):
            return HORIZON_CODE in row["error"] or not self.is_recognizable(task)
        return HORIZON_CODE in row["error"] and not self.is_recognizable(task)

    def has_strangers(self, attempt_id: str | None) -> bool:
        """Whether an attempt was given a stranger's task, as it may be.

        That is where the account is not ours alone though it is said to be, or where somebody who
        knows the attempt's callback address called it for that task.
        """
        row = self.row("SELECT upstream_task_id FROM tasks WHERE id = ?", attempt_id)
        world = self.site.world
        task = world.tasks.get(row["upstream_task_id"] or "") if row is not None else None
        if task is None or task.attempt_id == attempt_id:
            return False
        is_said = self.site.settings.is_exclusive and world.weather.foreign_count > 0
        return (is_said and task.attempt_id is None) or (attempt_id, task.id) in world.forged

    def is_recognizable(self, task: WorldTask) -> bool:
        """Whether the list shows, sooner or later, that a task can only be the gateway's."""
        settings, weather = self.site.settings, self.site.world.weather
        is_exclusive = settings.is_exclusive and not weather.foreign_count and self._has_control()
        return is_exclusive or self.is_marked(task)

    def is_marked(self, task: WorldTask) -> bool:
        """Whether the list shows, sooner or later, a marker of its attempt."""
        row = self.row("SELECT markers FROM attempts WHERE task_id = ?", task.attempt_id)
        markers = {} if row is None else json.loads(row["markers"])
        is_marked = any(markers.get(name) is not None for name in ("seed", "safety_identifier"))
        echo = self.site.world.weather.echo
        return is_marked and task.is_shown_whole and echo is not Echo.NEVER

    def _has_control(self) -> bool:
        """Whether a list can be known, by tasks whose answer came, to be whole and well dated."""
        answered = self.rows(
            "SELECT k.id FROM tasks k JOIN task_transitions t ON t.task_id = k.id WHERE "
            "t.version = 2 AND t.event = 'accepted' AND k.state != 'cancelled' "
            "AND k.missing_count = 0"
        )
        return bool(answered) and not any(self.is_misdated(row["id"]) for row in answered)

    def is_found(self, task: WorldTask) -> bool:
        """Whether the books know the task: by a row, as an orphan, or as still to be found."""
        if self.row("SELECT 1 FROM tasks WHERE upstream_task_id = ?", task.id) is not None:
            return True
        if self.row("SELECT 1 FROM orphans WHERE upstream_task_id = ?", task.id) is not None:
            return True
        row = self.row("SELECT state FROM tasks WHERE id = ?", task.attempt_id)
        return not self.resolves_unknown and row is not None and row["state"] == "unknown"
