"""Repeats of one request that meet in the store: who is first, and what the second one gets."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from gateway.domain.keys import Principal
from gateway.domain.tasks import Event, Task, TaskState, advance
from gateway.ports import Lifecycle, Runtime
from gateway.services import admitting
from gateway.services.moves import record_move
from gateway.services.sending import Outcome, apply_outcome
from gateway.services.submission import normalize_request
from gateway.services.sweeping import announce, sweep_lost_submissions
from gateway.storage import attempts, idempotency, migrate, tasks
from gateway.storage.admission import Admission, Repeated
from tests.contract.conftest import Place
from tests.racing.race import Race, a_body, find_principals, open_gateway
from tests.support.clock import FakeClock

LINGER_S = 1.0


@pytest.fixture
async def race(place: Place, tmp_path: Path) -> Race:
    url = place.config.url
    made = Race("none", str(tmp_path / "data"), None if url is None else url.get_secret_value())
    await migrate.upgrade(made.config.storage, Path(made.data_dir) / "gateway.db")
    return made


@pytest.fixture
async def runtime(race: Race) -> AsyncIterator[Runtime]:
    async with open_gateway(race) as opened:
        yield opened


@pytest.fixture
async def principal(runtime: Runtime, race: Race) -> Principal:
    return (await find_principals(runtime, race))[0]


async def prepare(
    runtime: Runtime, principal: Principal, key: str | None = None, *, is_retry: bool = False
) -> Admission:
    """Return an admission of one and the same request."""
    request = await normalize_request(runtime, principal, a_body("the same"))
    admission, _ = await admitting.prepare(
        runtime, principal, request, idempotency_key=key, is_retry=is_retry
    )
    return admission


async def admit(runtime: Runtime, admission: Admission) -> object:
    bounds = admitting.bounds_of(runtime, runtime.clock.now_ms())
    return await runtime.db.write(admitting.admit, admission, runtime.config, bounds)


async def stored(runtime: Runtime, task: Task) -> Task | None:
    found = await runtime.db.read(tasks.find, task.id)
    return None if found is None else found.task


@pytest.mark.parametrize("count", [2, 16])
async def test_one_idempotency_key_admits_one_task_whoever_asks_at_once(
    runtime: Runtime, race: Race, principal: Principal, count: int
) -> None:
    async with open_gateway(race, "another") as another:
        gateways = [runtime, another]
        admissions = [await prepare(runtime, principal, "the key") for _ in range(count)]
        verdicts = await asyncio.gather(
            *(admit(gateways[i % 2], admission) for i, admission in enumerate(admissions))
        )

    admitted = [each for each, said in zip(admissions, verdicts, strict=True) if said is None]
    assert len(admitted) == 1
    repeated = [said for said in verdicts if said is not None]
    assert repeated == [Repeated(admitted[0].task.id, is_by_key=True)] * (count - 1)
    assert len(await runtime.db.read(tasks.list_all, 100)) == 1


async def test_a_key_that_is_freed_as_it_is_found_taken_is_taken_after_all(
    runtime: Runtime, principal: Principal
) -> None:
    """The rival's request is refused between two statements, as another transaction may do it."""
    admission = await prepare(runtime, principal, "the key")
    claim = admission.claim
    assert claim is not None
    bounds = admitting.bounds_of(runtime, admission.task.created_at_ms)
    moves: list[str] = []

    def admit_beside_a_rival(conn: sa.Connection) -> object:
        def before(_conn: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.startswith("INSERT INTO idempotency_keys") and not moves:
                moves.append("taken")
                idempotency.take(conn, claim, "cgt-rival", admission.task.created_at_ms, 0)

        def after(_conn: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.startswith("INSERT INTO idempotency_keys") and len(moves) == 1:
                moves.append("its own insert")
            elif sql.startswith("INSERT INTO idempotency_keys") and len(moves) == 2:
                moves.append("freed")
                idempotency.free(conn, "cgt-rival")

        sa.event.listen(conn, "before_cursor_execute", before)
        sa.event.listen(conn, "after_cursor_execute", after)
        try:
            return admitting.admit(conn, admission, runtime.config, bounds)
        finally:
            sa.event.remove(conn, "before_cursor_execute", before)
            sa.event.remove(conn, "after_cursor_execute", after)

    verdict = await runtime.db.write(admit_beside_a_rival)

    assert moves == ["taken", "its own insert", "freed"]
    assert verdict is None
    assert await stored(runtime, admission.task) == admission.task


async def test_two_wanted_variants_whose_clients_left_are_given_to_two_repeats(
    runtime: Runtime, principal: Principal
) -> None:
    made = [await prepare(runtime, principal) for _ in range(2)]
    for admission in made:
        assert await admit(runtime, admission) is None
    for admission in made:
        await runtime.db.write(attempts.note_client_left, admission.task.id)

    repeats = [await prepare(runtime, principal, is_retry=True) for _ in range(2)]
    verdicts = [await admit(runtime, repeat) for repeat in repeats]

    assert {said.task_id for said in verdicts if isinstance(said, Repeated)} == {
        admission.task.id for admission in made
    }


async def test_an_attempt_whose_answer_was_delivered_is_never_joined(
    runtime: Runtime, principal: Principal
) -> None:
    first = await prepare(runtime, principal)
    assert await admit(runtime, first) is None
    await runtime.db.write(attempts.note_client_left, first.task.id)
    await runtime.db.write(attempts.note_answered, first.task.id)

    again = await prepare(runtime, principal, is_retry=True)

    assert await admit(runtime, again) is None
    assert len(await runtime.db.read(tasks.list_all, 100)) == 2


@pytest.mark.parametrize("place", ["postgres"], indirect=True)
async def test_an_id_that_is_given_while_its_refusal_is_written_is_of_a_failed_task(
    runtime: Runtime, race: Race, principal: Principal
) -> None:
    admission = await prepare(runtime, principal)
    assert await admit(runtime, admission) is None
    task = admission.task
    is_given = asyncio.Event()

    def give_and_linger(conn: sa.Connection) -> TaskState | None:
        state = attempts.give_id(conn, task.id)
        is_given.set()
        conn.execute(sa.text("SELECT pg_sleep(:linger_s)"), {"linger_s": LINGER_S})
        return state

    async with open_gateway(race, "another") as another, asyncio.TaskGroup() as group:
        giving = group.create_task(another.db.write(give_and_linger))
        await is_given.wait()
        rejected = await record_move(
            runtime, task, advance(task, Event.REFUSED, runtime.clock.now_ms()), Event.REFUSED
        )

    assert giving.result() is TaskState.RESERVED
    assert rejected is None
    await apply_outcome(runtime, task, Outcome(Event.REFUSED), is_id_given=False)
    after = await stored(runtime, task)
    assert after is not None
    assert after.state is TaskState.FAILED


async def test_after_the_database_was_away_nobody_takes_the_living_for_dead(
    postgres_place: Place, tmp_path: Path
) -> None:
    """They could not say that they live; the sender of this one never has."""
    url = postgres_place.config.url
    assert url is not None
    made = Race("none", str(tmp_path / "data"), url.get_secret_value())
    await migrate.upgrade(made.config.storage, postgres_place.path)
    async with open_gateway(made) as opened:
        clock = FakeClock(opened.clock.now_ms())
        runtime = replace(opened, clock=clock, lifecycle=Lifecycle(), process_id="sweeper")
        (principal, *_) = await find_principals(opened, made)
        assert await admit(opened, await prepare(opened, principal)) is None
        swept = [await sweep_lost_submissions(runtime)]
        for after_s in (0, 4, 4, 6, 4, 4):  # once it came late
            clock.advance(after_s)
            await announce(runtime)
            swept.append(await sweep_lost_submissions(runtime))
        clock.advance(6)
        swept.append(await sweep_lost_submissions(runtime))
        for _ in range(3):
            await announce(runtime)
            clock.advance(4)
            swept.append(await sweep_lost_submissions(runtime))

    assert swept == [0] * 10 + [1]
