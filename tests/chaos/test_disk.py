"""A disk that is full, a database that can't be written: no submit leaves, nothing paid is lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.journal import BALLAST_FILE, has_pending
from gateway.runtime import DATABASE_FILE
from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.serving import TIME_SCALE, Server, create_keys, make_settings, serving
from tests.chaos.storm import crowded, judge, wait_until_settled
from tests.chaos.upstream import Sandbox, credential_of, run_upstream
from tests.support.oracle import Books, read_books
from tests.support.small_disk import SmallDisk, mount_small_disk
from tests.support.waiting import eventually

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SEED = 20261128
DISK_BYTES = 6 * 1024 * 1024
WISHES_COUNT = 6
CLIENTS_COUNT = 8
OUTAGES_COUNT = 20
OUTAGE_S = 1.0
FILL_AGAIN_S = 0.02
SETTLED_S_MAX = 30.0
SLOW = {"operation": "create", "at": "before_create", "action": "delay", "ms": 3000}
DATABASE = f"data/{DATABASE_FILE}"
LOCKED_S = 0.2
SETTINGS = {"storage": {"lock_timeout_s": LOCKED_S}}


@dataclass(slots=True)
class Rig:
    """A server on a small disk, its upstream, and where its database is seen from here."""

    server: Server
    sandbox: Sandbox
    disk: SmallDisk
    crowd: Crowd
    key: str
    copy: Path
    """Where its database is copied to, to be read."""

    @property
    def data_dir(self) -> Path:
        return self.disk.seen / "data"

    def read_books(self) -> Books:
        self.disk.copy_database(DATABASE, self.copy)
        return read_books(self.copy)

    def count_reserved(self) -> int:
        return sum(task["state"] == "reserved" for task in self.read_books().tasks)

    def count_made(self) -> int:
        return len(self.sandbox.read_truth())


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with run_upstream(tmp_path / "sandbox", account_count=1, time_scale=TIME_SCALE) as running:
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mount_small_disk(tmp_path / "disk", DISK_BYTES) as mounted:
        yield mounted


@pytest.fixture
async def rig(tmp_path: Path, sandbox: Sandbox, disk: SmallDisk) -> AsyncIterator[Rig]:
    settings = make_settings(disk.folder / "data", sandbox.url, **SETTINGS)
    credential = credential_of(1)
    with serving(settings, credential, folder=tmp_path, prefix=disk.prefix) as server:
        (key,) = create_keys(server, 1)
        server.start()
        async with open_crowd([server], [key], random.Random(SEED)) as crowd:
            yield Rig(server, sandbox, disk, crowd, key, tmp_path / "copy.db")
            server.stop()


async def test_a_disk_that_is_full_under_load_loses_nothing(rig: Rig) -> None:
    assert await ride_out(rig, 1) == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_disk_that_is_full_again_and_again_loses_nothing(rig: Rig) -> None:
    assert await ride_out(rig, OUTAGES_COUNT) == []


async def ride_out(rig: Rig, outages_count: int) -> list[str]:
    """Fill the disk so often, take whatever room the gateway gives up, too, and kill it then.

    Return all that is wrong once everything has come to rest.
    """
    source = random.Random(SEED)
    async with crowded([rig.server], [rig.key], CLIENTS_COUNT, source) as crowd:
        await crowd.wait_for_answers(CLIENTS_COUNT)
        for _ in range(outages_count):
            async with kept_full(rig.disk):
                await asyncio.sleep(OUTAGE_S)
                await see_that_nothing_leaves(rig, crowd)
                await asyncio.to_thread(rig.server.kill)
            await asyncio.to_thread(rig.server.start)
            await crowd.wait_for_answers(CLIENTS_COUNT)
    await wait_until_settled(rig.read_books, SETTLED_S_MAX)
    return judge(rig.read_books(), rig.sandbox, crowd)


async def test_outcomes_are_journalled_while_the_database_takes_nothing(rig: Rig) -> None:
    await rig.crowd.submit(rig.key, "early")
    rig.sandbox.set_faults(SLOW)
    async with asyncio.TaskGroup() as group:
        wishes = [f"wish-{number}" for number in range(WISHES_COUNT)]
        for wish in wishes:
            group.create_task(rig.crowd.submit(rig.key, wish))
        await eventually(lambda: rig.count_reserved() == WISHES_COUNT)
        with rig.disk.locked_database(DATABASE):
            rig.disk.fill()
            await eventually(lambda: rig.crowd.task_ids.keys() >= set(wishes))
            refused = await rig.crowd.ask(rig.key, "late")
            shown = await rig.crowd.read(rig.key, rig.crowd.task_ids["early"])
            journalled = (rig.data_dir / "outcomes.journal").read_text().splitlines()
            has_ballast = (rig.data_dir / BALLAST_FILE).exists()
            made_count = rig.count_made()
        rig.disk.free()

    assert refused is not None
    assert refused.status_code == 503
    assert shown.status_code == 200
    assert made_count == 1 + WISHES_COUNT
    assert len(journalled) == WISHES_COUNT
    assert not has_ballast
    await wait_until_settled(rig.read_books, SETTLED_S_MAX)
    assert judge(rig.read_books(), rig.sandbox, rig.crowd) == []
    await eventually(lambda: not has_pending(rig.data_dir))
    assert (rig.data_dir / BALLAST_FILE).exists()


@asynccontextmanager
async def kept_full(disk: SmallDisk) -> AsyncIterator[None]:
    """Take every byte as soon as it is free."""

    async def fill() -> None:
        while True:
            disk.fill()
            await asyncio.sleep(FILL_AGAIN_S)

    async with asyncio.TaskGroup() as group:
        filling = group.create_task(fill())
        yield
        filling.cancel()
    disk.free()


async def see_that_nothing_leaves(rig: Rig, crowd: Crowd) -> None:
    """Clients ask, and are refused; those that only read are answered."""
    made_count = rig.count_made()
    await crowd.wait_for_asking(2 * CLIENTS_COUNT)
    shown = await rig.crowd.read(rig.key, next(iter(crowd.task_ids.values())))

    assert rig.count_made() == made_count
    assert shown.status_code == 200
