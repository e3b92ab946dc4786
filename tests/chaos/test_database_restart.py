"""PostgreSQL is ended and started again under load, and gateways are killed: nothing is lost."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.crowd import Crowd
from tests.chaos.serving import TIME_SCALE, Server, create_keys, make_settings, serving
from tests.chaos.storm import crowded, describe, judge, wait_until_settled
from tests.chaos.upstream import Sandbox, credential_of, run_upstream
from tests.support.postgres import PostgresServer, running_cluster
from tests.support.postgres_books import read_books_at

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SEED = 20261128
PEPPER = "7f3c9a52e1b84d06a5c2f9e87b1d4c60"
CLIENTS_COUNT = 10
RESTARTS_COUNT = 2
KILLS_COUNT = 60
KILLS_PER_RESTART = 3
KEYS_COUNT = 2
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
    async with running(tmp_path, cluster, sandbox, 1) as (servers, keys):
        async with crowded(servers, keys, CLIENTS_COUNT, random.Random(SEED)) as crowd:
            for _ in range(RESTARTS_COUNT):
                await crowd.wait_for_answers(CLIENTS_COUNT)
                await asyncio.to_thread(cluster.restart)
            await crowd.wait_for_answers(CLIENTS_COUNT)
        assert await settle(cluster, sandbox, crowd) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_two_gateways_killed_in_turn_beside_a_database_that_restarts_lose_nothing(
    tmp_path: Path, cluster: PostgresServer, sandbox: Sandbox
) -> None:
    source = random.Random(SEED)
    async with running(tmp_path, cluster, sandbox, 2) as (servers, keys):
        async with crowded(servers, keys, CLIENTS_COUNT, source) as crowd:
            for number in range(KILLS_COUNT):
                await asyncio.sleep(source.uniform(0, ALIVE_S_MAX))
                if number % KILLS_PER_RESTART == 0:
                    await asyncio.to_thread(cluster.restart)
                    await asyncio.sleep(source.uniform(0, ALIVE_S_MAX))
                server = source.choice(servers)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
        assert await settle(cluster, sandbox, crowd) == []


@asynccontextmanager
async def running(
    tmp_path: Path, cluster: PostgresServer, sandbox: Sandbox, servers_count: int
) -> AsyncIterator[tuple[list[Server], list[str]]]:
    """Run so many gateways on one database; give them with the keys of their clients."""
    with ExitStack() as stack:
        servers = []
        for number in range(servers_count):
            folder = tmp_path / f"gateway-{number}"
            folder.mkdir()
            settings = make_settings(
                folder / "data",
                sandbox.url,
                upstream=NEARBY,
                submit=SUBMIT,
                storage={"url": cluster.url("postgres")},
                auth={"pepper": PEPPER},
            )
            serving_one = serving(settings, credential_of(1), folder=folder)
            servers.append(stack.enter_context(serving_one))
        servers[0].write_settings()
        servers[0].run_command("migrate")
        keys = create_keys(servers[0], KEYS_COUNT)
        for server in servers:
            await asyncio.to_thread(server.start)
        yield servers, keys
        for server in servers:
            await asyncio.to_thread(server.stop)


async def settle(cluster: PostgresServer, sandbox: Sandbox, crowd: Crowd) -> list[str]:
    """Let everything come to rest, and return all that is wrong then."""
    url = cluster.url("postgres")
    await wait_until_settled(lambda: read_books_at(url), SETTLED_S_MAX)
    books = await read_books_at(url)
    print(f"\nseed {SEED}", *describe(books, sandbox, crowd), sep="\n")
    return judge(books, sandbox, crowd)
