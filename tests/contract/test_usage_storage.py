"""Usage reports on both stores: every sum is the ledger's own, to the micro-unit."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from itertools import combinations

import pytest
import sqlalchemy as sa

from gateway.domain.billing import (
    FREE,
    Price,
    Reservation,
    UnitPrices,
    Usage,
)
from gateway.domain.limits import Window, window_start_ms
from gateway.domain.tasks import Event, TaskState
from gateway.domain.usage import (
    Basis,
    Group,
    Span,
    TaskUsage,
    UsageKind,
    UsageQuery,
    UsageRow,
    days_between,
)
from gateway.ports import Database
from gateway.services.moves import Move, apply_move
from gateway.services.notifying import Outbox
from gateway.storage import ledger, tasks, usage
from gateway.storage.schema import ledger_entries
from gateway.storage.usage import Found
from tests.contract.conftest import Place
from tests.support.booked import bear
from tests.support.booked import ended as ended_by
from tests.support.stored import NOW_MS, a_task, moved

DAY_MS = 86_400_000
LONG_AGO, LATER = 0, NOW_MS + 400 * DAY_MS
CNY = Price(
    "book/1",
    "CNY",
    UnitPrices(million_tokens_micros=15_000_001),
    "USD",
    UnitPrices(million_tokens_micros=2_100_003, video_micros=1),
)
EUR = Price("book/2", "EUR", UnitPrices(second_micros=7), "USD", UnitPrices(second_micros=9))
IN_YEN = Price("book/3", "CNY", UnitPrices(video_micros=5), "JPY", UnitPrices(video_micros=100))


@dataclass(frozen=True)
class Case:
    """A task that was admitted, and what became of it."""

    number: int
    price: Price = CNY
    after_ms: int = 60_000
    tokens: int | None = 49_005
    outcome: str = "settled"
    project: str = "default"
    key: str = "Key000000000"
    model: str = "doubao-seedance-1-0-pro-250528"


def write_case(conn: sa.Connection, case: Case) -> None:
    """Write what admission, the observer and an operator write of it."""
    task = a_task(case.number, project_id=f"proj_{case.project}", key_id=case.key, model=case.model)
    reservation = Reservation(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        held=Usage(100_000, 5),
        price=case.price,
        at_ms=task.created_at_ms,
        day_start_ms=window_start_ms(Window.DAY, task.created_at_ms, UTC),
        month_start_ms=window_start_ms(Window.MONTH, task.created_at_ms, UTC),
    )
    tasks.admit(conn, task, '{"content":[]}', None)
    ledger.hold(conn, reservation)
    queued = moved(task, Event.ACCEPTED, upstream_request_id=f"req-{case.number}")
    assert tasks.apply_transition(conn, task, queued, Event.ACCEPTED)
    if case.outcome == "held":
        return
    at_ms = task.created_at_ms + case.after_ms
    event = Event.SUCCEEDED if case.outcome == "settled" else Event.FAILED
    used = {} if case.tokens is None else {"usage": {"completion_tokens": case.tokens}}
    ended = moved(queued, event, updated_at_ms=at_ms, fields=used)
    proof = ended_by(ended.upstream_task_id, event.value)
    assert apply_move(conn, Move(queued, ended, event, proof), Outbox(None, "")) is not None
    if case.outcome == "loss":
        late = f"late-{case.number}"
        found = ended_by(late, "succeeded")
        step = ledger.book_loss(conn, reservation, 735_076, found, at_ms + DAY_MS)
        assert step is not None
        bear(conn, task.id, late, step)


async def write(store: Database, *cases: Case) -> None:
    for case in cases:
        await store.write(write_case, case)


@dataclass
class Sink:
    """Keeps what a report by task gives."""

    rows: list[TaskUsage] = field(default_factory=list)
    begun: int = 0

    def begin(self) -> None:
        self.begun += 1
        self.rows = []

    def add(self, rows: Sequence[TaskUsage]) -> None:
        self.rows += rows


def a_query(basis: Basis, from_ms: int = LONG_AGO, to_ms: int = LATER) -> UsageQuery:
    return UsageQuery(basis, from_ms, to_ms)


async def sums(
    store: Database, query: UsageQuery, groups: Collection[Group] = ()
) -> list[UsageRow]:
    def cut(from_ms: int, to_ms: int) -> Sequence[Span]:
        if Group.DAY in groups:
            return days_between(from_ms, to_ms, UTC)
        return (Span(None, from_ms, to_ms),)

    return list((await store.read(usage.sum_usage, query, cut, groups)).rows)


async def by_task(store: Database, query: UsageQuery) -> tuple[Found, list[TaskUsage]]:
    sink = Sink()
    found = await store.read(usage.list_usage, query, sink)
    assert sink.begun == 1
    return found, sink.rows


def totals(rows: Sequence[UsageRow] | Sequence[TaskUsage]) -> Counter[str]:
    total: Counter[str] = Counter()
    for row in rows:
        total["charge"] += row.charge_micros
        total["tokens"] += row.tokens
        total["seconds"] += row.seconds
        total["videos"] += row.videos
        total["held"] += row.held_micros
        total[f"cost in {row.cost_currency}"] += row.cost_micros
        total[f"{row.kind.value} tasks"] += getattr(row, "tasks", 1)
    return +total


def read_ledger(conn: sa.Connection) -> Counter[str]:
    """Return the same sums from the bare rows, by other means than the reports."""
    total: Counter[str] = Counter()
    open_holds: dict[str, int] = {}
    for row in conn.execute(sa.select(ledger_entries).order_by(ledger_entries.c.step)):
        total["charge"] += row.spent_micros
        total["tokens"] += row.spent_tokens
        total["seconds"] += row.spent_seconds
        total["videos"] += row.spent_videos
        total[f"cost in {row.cost_currency}"] += row.cost_micros
        open_holds[row.task_id] = open_holds.get(row.task_id, 0) + row.held_micros
        word = {"settle": "settled", "loss": "loss"}.get(row.kind)
        if word:
            total[f"{word} tasks"] += 1
    total["held"] = sum(open_holds.values())
    total["held tasks"] = sum(1 for each in open_holds.values() if each)
    return +total


def draw_cases(seed: int, count: int) -> Iterator[Case]:
    source = random.Random(seed)
    for number in range(count):
        yield Case(
            number * 7_200_000,
            price=source.choice([CNY, EUR]),
            after_ms=source.choice([0, 1, 30_000, 2 * DAY_MS]),
            tokens=source.choice([None, 1, 49_005, 123_456]),
            outcome=source.choice(["settled", "settled", "settled", "held", "released", "loss"]),
            project=source.choice(["default", "other"]),
            key=source.choice(["Key000000000", "Key000000001"]),
            model=source.choice(["model-a", "model-b"]),
        )


async def test_every_report_adds_up_to_the_ledger(database: Database) -> None:
    await write(database, *draw_cases(20261122, 60))
    due = await database.read(read_ledger)
    booked = due.copy()
    del booked["held"], booked["held tasks"]

    for size in range(len(Group) + 1):
        for groups in combinations(Group, size):
            submitted = await sums(database, a_query(Basis.SUBMITTED), groups)
            settled = await sums(database, a_query(Basis.SETTLED), groups)
            assert totals(submitted) == due, groups
            assert totals(settled) == booked, groups
    assert totals((await by_task(database, a_query(Basis.SUBMITTED)))[1]) == due
    assert totals((await by_task(database, a_query(Basis.SETTLED)))[1]) == booked


async def test_parts_of_time_add_up_to_the_whole_and_none_is_counted_twice(
    database: Database,
) -> None:
    await write(database, *draw_cases(5, 40))
    for basis in Basis:
        whole = totals(await sums(database, a_query(basis)))
        parts: Counter[str] = Counter()
        for start in range(NOW_MS - DAY_MS, NOW_MS + 10 * DAY_MS, DAY_MS // 3):
            parts += totals(await sums(database, a_query(basis, start, start + DAY_MS // 3)))
        assert parts == whole


async def test_rows_are_grouped_as_asked_and_nothing_else_is_named(database: Database) -> None:
    await write(
        database,
        Case(1, project="default", model="a"),
        Case(2, project="other", model="b"),
        Case(DAY_MS, project="other", model="b"),
    )

    (one,) = await sums(database, a_query(Basis.SETTLED))
    assert (one.project, one.key, one.model, one.day, one.tasks) == (None, None, None, None, 3)
    by_project = await sums(database, a_query(Basis.SETTLED), [Group.PROJECT])
    assert [(row.project, row.tasks) for row in by_project] == [("default", 1), ("other", 2)]
    by_day = await sums(database, a_query(Basis.SETTLED), [Group.PROJECT, Group.DAY])
    assert [(row.project, str(row.day)) for row in by_day] == [
        ("default", "2025-11-24"),
        ("other", "2025-11-24"),
        ("other", "2025-11-25"),
    ]


async def test_a_settlement_and_an_estimate_say_what_they_are(database: Database) -> None:
    await write(database, Case(1), Case(2, tokens=None))

    _, (settled, estimated) = await by_task(database, a_query(Basis.SETTLED))
    (together,) = await sums(database, a_query(Basis.SETTLED))

    task = a_task(1)
    assert settled == TaskUsage(
        kind=UsageKind.SETTLED,
        project="default",
        key=task.key_id,
        model=task.model,
        task_id=task.id,
        upstream="ark",
        upstream_task_id=f"up-{task.id}",
        upstream_request_id="req-1",
        state=TaskState.SUCCEEDED,
        submitted_at_ms=task.created_at_ms,
        settled_at_ms=task.created_at_ms + 60_000,
        is_estimated=False,
        videos=1,
        seconds=5,
        tokens=49_005,
        charge_micros=102_911 + 1,
        held_micros=0,
        cost_currency="CNY",
        cost_micros=735_076,
        price_version="book/1",
        evidence="ended",
        evidence_detail=f"ark: up-{a_task(1).id} is succeeded",
    )
    assert (estimated.is_estimated, estimated.tokens) == (True, 100_000)
    assert (together.tasks, together.estimated) == (2, 1)


async def test_a_loss_is_a_row_of_its_own_and_charged_to_nobody(database: Database) -> None:
    await write(database, Case(1), Case(2, outcome="loss"))

    settled, loss = sorted(
        await sums(database, a_query(Basis.SETTLED)), key=lambda row: row.kind, reverse=True
    )

    assert (settled.kind, settled.tasks) == (UsageKind.SETTLED, 1)
    assert (loss.kind, loss.tasks, loss.charge_micros) == (UsageKind.LOSS, 1, 0)
    assert loss.cost_micros == 735_076
    _, rows = await by_task(database, a_query(Basis.SETTLED))
    assert (rows[-1].kind, rows[-1].evidence) == (UsageKind.LOSS, "ended")


async def test_what_is_held_shows_by_submission_alone(database: Database) -> None:
    await write(database, Case(1, outcome="held"), Case(2, outcome="released"))

    assert await sums(database, a_query(Basis.SETTLED)) == []
    (held,) = await sums(database, a_query(Basis.SUBMITTED))

    assert (held.kind, held.tasks, held.charge_micros) == (UsageKind.HELD, 1, 0)
    assert held.held_micros == CNY.charge.amount(Usage(100_000, 5))
    _, (row,) = await by_task(database, a_query(Basis.SUBMITTED))
    assert (row.state, row.settled_at_ms, row.evidence) == (TaskState.QUEUED, None, None)


async def test_a_task_is_dated_by_its_end_or_by_its_beginning(database: Database) -> None:
    await write(database, Case(0, after_ms=2 * DAY_MS))
    of_beginning = (NOW_MS, NOW_MS + 1)
    of_end = (NOW_MS + 2 * DAY_MS, NOW_MS + 2 * DAY_MS + 1)

    found = {
        (basis, span): len(await sums(database, a_query(basis, *span)))
        for basis in Basis
        for span in (of_beginning, of_end)
    }

    assert found == {
        (Basis.SETTLED, of_beginning): 0,
        (Basis.SETTLED, of_end): 1,
        (Basis.SUBMITTED, of_beginning): 1,
        (Basis.SUBMITTED, of_end): 0,
    }


async def test_the_end_of_a_report_is_not_in_it(database: Database) -> None:
    await write(database, Case(0, after_ms=100))
    at_ms = NOW_MS + 100

    assert await sums(database, a_query(Basis.SETTLED, at_ms - 50, at_ms)) == []
    assert len(await sums(database, a_query(Basis.SETTLED, at_ms, at_ms + 1))) == 1


async def test_costs_in_two_currencies_are_not_added(database: Database) -> None:
    await write(database, Case(1, price=CNY), Case(2, price=EUR), Case(3, price=EUR))

    rows = await sums(database, a_query(Basis.SETTLED))

    assert [(row.cost_currency, row.tasks) for row in rows] == [("CNY", 1), ("EUR", 2)]


@pytest.mark.parametrize("basis", list(Basis))
async def test_charges_in_two_currencies_are_not_added_either(
    database: Database, basis: Basis
) -> None:
    await write(database, Case(1), Case(2, price=IN_YEN), Case(3, price=FREE))

    def cut(from_ms: int, to_ms: int) -> Sequence[Span]:
        return (Span(None, from_ms, to_ms),)

    found = await database.read(usage.sum_usage, a_query(basis), cut, ())
    assert found == Found(["JPY", "USD", "XXX"])
    listed, rows = await by_task(database, a_query(basis))
    assert (listed, rows) == (Found(["JPY", "USD", "XXX"]), [])

    in_yen = UsageQuery(basis, LONG_AGO, LATER, "JPY")
    (row,) = (await database.read(usage.sum_usage, in_yen, cut, ())).rows
    assert (row.tasks, row.charge_micros) == (1, 100)
    _, rows = await by_task(database, in_yen)
    assert [row.charge_micros for row in rows] == [100]
    in_none = UsageQuery(basis, LONG_AGO, LATER, "CHF")
    assert await database.read(usage.sum_usage, in_none, cut, ()) == Found([])


@pytest.mark.parametrize("basis", list(Basis))
async def test_pages_are_joined_without_a_gap_though_many_have_the_same_date(
    database: Database, basis: Basis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_PAGE_ROWS", 3)
    # Ends at the same time, whatever the beginning.
    cases = [Case(n, after_ms=1000 - n, outcome="loss" if n % 4 else "settled") for n in range(20)]
    await write(database, *cases)

    _, rows = await by_task(database, a_query(basis))

    assert len(rows) == 20
    assert len({(row.task_id, row.kind) for row in rows}) == 20
    dates = [row.dated_ms(basis) for row in rows]
    assert dates == sorted(dates)


async def test_a_report_sees_one_state_of_the_ledger(
    place: Place, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_PAGE_ROWS", 2)
    await write(database, *(Case(number) for number in range(6)))

    async def settle_another() -> None:
        other = await place.open()
        await write(other, Case(100))
        await other.close()

    class MeddledSink(Sink):
        def add(self, rows: Sequence[TaskUsage]) -> None:
            if not self.rows:  # once, while the report is being read
                thread = threading.Thread(target=asyncio.run, args=(settle_another(),))
                thread.start()
                thread.join()
            super().add(rows)

    sink = MeddledSink()
    await database.read(usage.list_usage, a_query(Basis.SETTLED), sink)

    assert len(sink.rows) == 6
    (now,) = await sums(database, a_query(Basis.SETTLED))
    assert now.tasks == 7
