"""Whoever may end a task, and however many at once: its hold is resolved exactly once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.domain.billing import EntryKind, Evidence, EvidenceKind, settle
from gateway.domain.tasks import Event, advance
from gateway.services.moves import record_move, resolve_ended
from gateway.services.observing import look_at
from gateway.services.submission import submit_task
from gateway.storage import ledger, migrate, schema
from tests.contract.conftest import Place
from tests.racing.race import (
    Race,
    a_body,
    find_principals,
    open_gateway,
    run_race,
    succeeded,
    upstream_of,
)
from tests.support.sums import find_wrong_sums

ROUNDS = 20
ROUNDS_LONG = 1000
ACCOUNTS = (("default", "KeyA"), ("films", "KeyB"))


@pytest.fixture
async def race(place: Place, tmp_path: Path) -> Race:
    """Six processes, which share out eight observers and all others between them."""
    url = place.config.url
    made = Race(
        "settle",
        str(tmp_path / "data"),
        database_url=None if url is None else url.get_secret_value(),
        racers_count=6,
        attempts_count=ROUNDS,
        accounts=ACCOUNTS,
    )
    await migrate.upgrade(made.config.storage, Path(made.data_dir) / "gateway.db")
    return made


@dataclass(frozen=True, slots=True)
class Books:
    """What is written after a race."""

    tasks_count: int
    outcomes: dict[str, int]
    resolutions: Sequence[Any]
    """(task, how many entries resolve its hold), where it is not one."""
    ends: Sequence[Any]
    """(task, how often it ended), where it is not once."""
    usage_events: Sequence[Any]
    """Tasks with a usage event, one row for each event."""
    settled: Sequence[Any]


def read_books(conn: sa.Connection) -> Books:
    def rows(query: str) -> list[Any]:
        return [tuple(row) for row in conn.execute(sa.text(query))]

    return Books(
        rows("SELECT count(*) FROM tasks")[0][0],
        dict(rows("SELECT outcome, count(*) FROM reservations GROUP BY outcome")),
        rows(
            "SELECT r.task_id, count(e.task_id) FROM reservations r "
            "LEFT JOIN ledger_entries e ON e.task_id = r.task_id AND e.step = 2 "
            "GROUP BY r.task_id HAVING count(e.task_id) <> 1"
        ),
        rows(
            "SELECT t.id, count(h.task_id) FROM tasks t LEFT JOIN task_transitions h "
            "ON h.task_id = t.id AND h.to_state IN ('succeeded', 'failed', 'cancelled', 'expired') "
            "GROUP BY t.id HAVING count(h.task_id) <> 1"
        ),
        rows("SELECT task_id FROM notifications WHERE kind = 'usage' ORDER BY task_id"),
        rows("SELECT task_id FROM reservations WHERE outcome = 'settled' ORDER BY task_id"),
    )


async def run_settlements(race: Race) -> None:
    async with open_gateway(race) as runtime:
        await find_principals(runtime, race)
    told = run_race(race)
    async with open_gateway(race) as runtime:
        books = await runtime.db.read(read_books)
        assert await runtime.db.read(find_wrong_sums) == []

    assert books.tasks_count == race.attempts_count
    assert (books.resolutions, books.ends) == ([], [])
    assert sum(books.outcomes.values()) == race.attempts_count
    assert books.usage_events == books.settled
    # It was a race: in every round somebody was overtaken, and not always by the same one.
    assert sum(each["lost_races"] for each in told) > race.attempts_count
    assert min(books.outcomes["settled"], books.outcomes["released"]) > race.attempts_count // 20


async def test_eight_observers_a_callback_a_sweeper_a_cancel_settle_once(race: Race) -> None:
    await run_settlements(race)


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_a_thousand_tasks_are_each_settled_once(race: Race) -> None:
    await run_settlements(replace(race, attempts_count=ROUNDS_LONG))


async def test_two_resolutions_of_one_hold_that_meet_are_one(race: Race) -> None:
    """The second of them is told that there is nothing left, and writes nothing."""
    async with open_gateway(race, "one") as one, open_gateway(race, "other") as other:
        principal = (await find_principals(one, race))[0]
        task = (await submit_task(one, principal, a_body("missing"), "req")).task
        failed = advance(task, Event.VANISHED, one.clock.now_ms())
        ended = await record_move(one, task, failed, Event.VANISHED)
        assert ended is not None
        evidence = Evidence(EvidenceKind.OPERATOR, "somebody said so")
        gateways = [one, other] * 4

        resolved = await asyncio.gather(
            *(resolve_ended(each, ended, evidence, is_charged=True) for each in gateways)
        )

        reservation = await one.db.read(ledger.find, task.id)
        assert reservation is not None
        resolution = settle(reservation.price, reservation.held, None, evidence)
        again = await other.db.write(ledger.resolve, reservation, resolution, 1, tasks_count=0)
        assert sum(each is not None for each in resolved) == 1
        assert not again
        kinds = [entry.kind for entry in await one.db.read(ledger.list_entries, task.id)]
        assert kinds == [EntryKind.HOLD, EntryKind.SETTLE]
        assert await one.db.read(find_wrong_sums) == []


async def test_a_settled_hold_is_not_released_as_well(race: Race) -> None:
    """Whatever asks for it: the key of the ledger has room for one end, of either kind."""
    async with open_gateway(race) as runtime:
        principal = (await find_principals(runtime, race))[0]
        task = (await submit_task(runtime, principal, a_body("settled"), "req")).task
        assert task.upstream_task_id is not None
        upstream_of(runtime).shown[task.upstream_task_id] = succeeded()
        await look_at(runtime, task)
        columns = [column.name for column in schema.ledger_entries.c]
        released = ["'release'" if name == "kind" else name for name in columns]

        def release_too(conn: sa.Connection) -> None:
            conn.execute(
                sa.text(
                    f"INSERT INTO ledger_entries ({', '.join(columns)}) "  # noqa: S608
                    f"SELECT {', '.join(released)} FROM ledger_entries WHERE kind = 'settle'"
                )
            )

        with pytest.raises(sa.exc.IntegrityError):
            await runtime.db.write(release_too)
        assert await runtime.db.read(find_wrong_sums) == []
