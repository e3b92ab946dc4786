"""PostgreSQL is ended and started again under load, and gateways are killed: nothing is lost."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.serving import TIME_SCALE, create_keys, make_settings, serving
from tests.chaos.storm import crowded, describe, judge, wait_until_settled
from tests.chaos.upstream import Sandbox, credential_of, run_upstream
from tests.support.postgres import PostgresServer, running_cluster
from tests.support.postgres_books import read_books_at

SEED = 20261128
PEPPER = "7f3c9a52e1b84d06a5c2f9e87b1d4c60"
CLIENTS_COUNT = 10
RESTARTS_COUNT = 2
LONG_RESTARTS_COUNT = 25
ALIVE_S_MAX = 1.5
SETTLED_S_MAX = 150.0
SLOW = {"operation": "create", "at": "before_create", "action": "delay", "ms": 200, "share": 0.5}
NEARBY = {"connect_timeout_s": 1.0, "write_timeout_s": 2.0, "answer_timeout_s": 5.0}
SUBMIT = {"max_unknown": 1000, "max_unknown_key": 1000, "absence_quiet_s": 5.0}


@pytest.fixture
def cluster() -> Iterator[PostgresServer]:
    """One that keeps what it has confirmed, also when its processes are killed."""
    with running_cluster(synchronous_commit="on") as server:
        yield server


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with run_upstream(tmp_path / "sandbox", account_count=1, time_scale=TIME_SCALE) as running:
        running.set_faults(SLOW)
        yield running


async def test_a_database_restarted_under_load_loses_nothing(
    tmp_path: Path, cluster: PostgresServer, sandbox: Sandbox
) -> None:
    await ride_out(tmp_path, cluster, sandbox, RESTARTS_COUNT, kills=False)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_database_restarted_often_beside_killed_gateways_loses_nothing(
    tmp_path: Path, cluster: PostgresServer, sandbox: Sandbox
) -> None:
    await ride_out(tmp_path, cluster, sandbox, LONG_RESTARTS_COUNT, kills=True)


async def ride_out(
    tmp_path: Path, cluster: PostgresServer, sandbox: Sandbox, restarts_count: int, *, kills: bool
) -> None:
    """Restart the database so often, and with `kills` the gateway, too; then compare."""
    source = random.Random(SEED)
    url = cluster.url("postgres")
    settings = make_settings(
        tmp_path / "data",
        sandbox.url,
        upstream=NEARBY,
        submit=SUBMIT,
        storage={"url": url},
        auth={"pepper": PEPPER},
    )
    with serving(settings, credential_of(1), folder=tmp_path) as server:
        server.write_settings()
        server.run_command("migrate")
        keys = create_keys(server, 1)
        await asyncio.to_thread(server.start)
        async with crowded(server, keys, CLIENTS_COUNT, source) as crowd:
            for _ in range(restarts_count):
                await asyncio.sleep(source.uniform(0, ALIVE_S_MAX))
                await asyncio.to_thread(cluster.restart)
                if kills:
                    await asyncio.sleep(source.uniform(0, ALIVE_S_MAX))
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
            answered_count = len(crowd.task_ids)
            await asyncio.sleep(ALIVE_S_MAX)
        await wait_until_settled(lambda: read_books_at(url), SETTLED_S_MAX)
        books = await read_books_at(url)
        print(f"\nseed {SEED}", *describe(server, books, sandbox, crowd), sep="\n")
        assert judge(books, sandbox, crowd) == []
        assert len(crowd.task_ids) > answered_count
        server.stop()
