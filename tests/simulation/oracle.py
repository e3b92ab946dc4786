"""The judge: compares the gateway's books with what really happened, by plain SQL.

It shares no code with what it judges. What the upstream's record and the clients' answers prove is
held against the tables, row by row and sum by sum; each difference is told in one line. Some of it
is judged behind every commit, some whenever asked, all of it at the end.
"""

from collections.abc import Callable, Iterable, Sequence

from tests.simulation.clients import Clients
from tests.simulation.gateway import Site
from tests.simulation.judge_limits import LimitJudge
from tests.simulation.judge_money import (
    judge_balances,
    judge_holds,
    judge_resolution,
    judge_sums,
)
from tests.simulation.judge_tasks import (
    judge_accounted,
    judge_history,
    judge_tasks,
    judge_wish,
)
from tests.simulation.judge_told import judge_deliveries, judge_told
from tests.simulation.receivers import HOPELESS
from tests.simulation.truth import Truth
from tests.simulation.world import Received


class Oracle:
    """Judges one run. Whatever is wrong goes to `violations`."""

    def __init__(self, site: Site, clients: Clients) -> None:
        self.truth = Truth(site, clients)
        self.violations: list[str] = []
        self.check_count = 0
        self.on_violation: Callable[[str], None] = _ignore
        self._limits = LimitJudge()
        self._entries_seen = 0
        self._attempts_seen = 0
        self._joinable: dict[tuple[str, str], list[tuple[str, int]]] = {}

    # --- during the run --------------------------------------------------------------------------

    def see_received(self, received: Received) -> None:
        """Before a byte leaves, the intent and its hold are committed."""
        self.check_count += 1
        truth = self.truth
        row = truth.row("SELECT state FROM tasks WHERE id = ?", received.attempt_id)
        # A clock that is set may have the sweep believe that an attempt is overdue: its hold stays.
        expected = {"reserved", "unknown"} if truth.jumps_s else {"reserved"}
        if row is None or row["state"] not in expected:
            state = None if row is None else row["state"]
            self._add([f"P1: {received.attempt_id} was sent while its row is {state}"])
        held = truth.row("SELECT outcome FROM reservations WHERE task_id = ?", received.attempt_id)
        if held is None or held["outcome"] is not None:
            self._add([f"P4: {received.attempt_id} was sent without a hold"])
        count = len(truth.received_for(received.attempt_id))
        if count > 1:
            self._add([f"P2: {received.attempt_id} was sent {count} times"])

    def see_commit(self) -> None:
        """Judge what every commit must leave right."""
        self.check_count += 1
        self._add(judge_sums(self.truth))
        self._add(self._limits.judge(self.truth))
        self._judge_entries()
        self._judge_admissions()

    def _judge_entries(self) -> None:
        """P8: the reason for which a hold was let go of is true in that moment."""
        truth = self.truth
        for entry in truth.rows(
            "SELECT rowid, * FROM ledger_entries WHERE rowid > ?", self._entries_seen
        ):
            self._entries_seen = entry["rowid"]
            if entry["step"] != 2:
                continue
            truth.released_s[entry["task_id"]] = truth.now_s()
            row = truth.row("SELECT * FROM tasks WHERE id = ?", entry["task_id"])
            held = truth.row("SELECT * FROM reservations WHERE task_id = ?", entry["task_id"])
            assert row is not None
            assert held is not None
            self._add(judge_resolution(truth, row, held, entry["evidence"]))

    def _judge_admissions(self) -> None:
        """P3: nothing is admitted in whose place an earlier attempt could have been joined."""
        truth, before = self.truth, self._joinable
        self._joinable = {}
        for row in truth.rows(
            "SELECT a.task_id, a.key_id, a.fingerprint, a.created_at_ms FROM attempts a "
            "JOIN tasks t ON t.id = a.task_id WHERE a.is_answered = 0 AND a.has_client_left = 1 "
            "AND t.state != 'rejected' AND t.deleted_at_ms IS NULL"
        ):
            found = self._joinable.setdefault((row["key_id"], row["fingerprint"]), [])
            found.append((row["task_id"], row["created_at_ms"]))
        for row in truth.rows(
            "SELECT a.rowid, a.*, i.key FROM attempts a LEFT JOIN idempotency_keys i "
            "ON i.task_id = a.task_id WHERE a.rowid > ?",
            self._attempts_seen,
        ):
            self._attempts_seen = row["rowid"]
            truth.skews_ms[row["task_id"]] = truth.site.clock.skew_ms
            if row["callback_url"] is not None:
                truth.callback_urls[row["task_id"]] = row["callback_url"]
            if row["key"] is not None:
                continue
            place = (row["key_id"], row["fingerprint"])
            still = [
                each for each in before.get(place, ()) if each in self._joinable.get(place, ())
            ]
            for task_id, created_at_ms in still:
                if 0 <= row["created_at_ms"] - created_at_ms < 600_000 - 1000:
                    self._add([f"P3: {row['task_id']} was admitted, {task_id} left unjoined"])

    def is_quiet(self) -> bool:
        """Whether nothing more is to be expected of anybody."""
        truth = self.truth
        world = truth.site.world
        if world.pending_count:
            return False
        marks = ", ".join(f"'{state}'" for state in truth.moving_states)
        left = truth.row(f"SELECT 1 FROM tasks WHERE state IN ({marks})")  # noqa: S608
        if left is not None or truth.site.journal.lines:
            return False
        if truth.delivers:
            hopeless = " AND ".join(f"url NOT LIKE 'https://{kind}.%'" for kind in HOPELESS)
            if truth.row(
                f"SELECT 1 FROM notifications WHERE state = 'pending' AND {hopeless}"  # noqa: S608
            ):
                return False
        return all(truth.is_found(task) or truth.is_given_up(task) for task in world.own_tasks())

    def judge_now(self) -> Sequence[str]:
        """Judge all that must be right at any moment; return everything that is wrong so far."""
        self.check_count += 1
        truth = self.truth
        self._complain()
        self._add(judge_sums(truth))
        self._add(judge_history(truth))
        self._add(judge_accounted(truth))
        for wish in truth.clients.wishes:
            self._add(judge_wish(truth, wish))
        self._add(judge_holds(truth))
        self._add(judge_balances(truth))
        self._add(judge_deliveries(truth))
        return self.violations

    # --- after it --------------------------------------------------------------------------------

    def judge(self) -> Sequence[str]:
        """Return everything that is wrong, now that all is over."""
        truth = self.truth
        self._complain()
        self._add(judge_tasks(truth))
        self._add(judge_holds(truth))
        self._add(judge_balances(truth))
        self._add(judge_told(truth))
        return self.violations

    def _complain(self) -> None:
        self._add(f"client: {complaint}" for complaint in self.truth.clients.complaints)

    def _add(self, violations: Iterable[str]) -> None:
        for violation in violations:
            if violation not in self.violations:
                self.violations.append(violation)
                self.on_violation(violation)


def _ignore(_violation: str) -> None:
    pass
