"""Stored requests, on both stores."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.util import await_only

from gateway.domain.tasks import Event, Task
from gateway.ports import Database
from gateway.services.moves import Move, apply_move
from gateway.services.notifying import Outbox
from gateway.storage import projects, requests, tasks
from gateway.storage.postgres import open_postgres
from tests.contract.conftest import Place
from tests.support.stored import a_project, a_task, an_event, moved

BODY = (
    '{"model":"m","content":[{"type":"text","text":"SECRET"},'
    '{"type":"image_url","image_url":{"url":"https://img.example/a.png?sig=1"}}]}'
)
NO_SINK = Outbox(usage_url=None, usage_source="/test")
ERASED = '{"model":"m","content":[]}'


def add_queued(conn: sa.Connection) -> None:
    task = a_task()
    queued = moved(task, Event.ACCEPTED)
    tasks.admit(conn, task, BODY, 10**15)
    assert tasks.apply_transition(conn, task, queued, Event.ACCEPTED)


async def test_the_end_of_a_task_strips_the_queries_of_its_media(database: Database) -> None:
    queued = await prepare(database)

    ended = moved(queued, Event.SUCCEEDED)
    assert await database.write(apply_move, Move(queued, ended, Event.SUCCEEDED), NO_SINK)

    stored = await database.read(tasks.find, queued.id)
    assert stored is not None
    assert stored.request_body == BODY.replace("?sig=1", "")


async def test_an_erasure_is_not_undone_by_the_end_of_the_task(postgres_place: Place) -> None:
    database = await postgres_place.open()
    rival = await open_postgres(postgres_place.config)
    await database.write(projects.insert, a_project(), an_event())
    queued = await prepare(database)
    has_erased, may_commit = asyncio.Event(), asyncio.Event()

    def erase(conn: sa.Connection) -> None:
        stored = requests.lock(conn, queued.id)
        assert stored is not None
        requests.replace_body(conn, requests.StoredRequest(queued.id, ERASED, None))
        has_erased.set()
        await_only(may_commit.wait())

    async with asyncio.TaskGroup() as group:
        group.create_task(rival.write(erase))
        await has_erased.wait()
        ended = moved(queued, Event.SUCCEEDED)
        ending = group.create_task(
            database.write(apply_move, Move(queued, ended, Event.SUCCEEDED), NO_SINK)
        )
        await asyncio.wait({ending}, timeout=0.3)
        may_commit.set()

    stored = await database.read(tasks.find, queued.id)
    await rival.close()
    await database.close()
    assert ending.result() is not None
    assert stored is not None
    assert stored.request_body == ERASED


async def prepare(database: Database) -> Task:
    """Return a queued task whose request is stored."""
    await database.write(add_queued)
    stored = await database.read(tasks.find, a_task().id)
    assert stored is not None
    return stored.task
