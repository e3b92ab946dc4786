"""Killed at random moments under load, the real program loses nothing and pays nothing twice."""

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.chaos.bills import compare_usage, report_usage
from tests.chaos.serving import TIME_SCALE, create_keys, make_settings, serving
from tests.chaos.storm import crowded, describe, judge, kill_again_and_again, recover
from tests.chaos.upstream import Sandbox, credential_of, run_upstream

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SEED = 20261128
ROUNDS_COUNT = 4
LONG_ROUNDS_COUNT = 200
CLIENTS_COUNT = 16
KEYS_COUNT = 2
ALIVE_S_MAX = 1.5
# Each kill leaves as many unknown submissions as there were in flight.
FAULTS = (
    {"operation": "create", "at": "before_create", "action": "delay", "ms": 300, "share": 0.5},
    {"operation": "create", "at": "after_create", "action": "drop", "share": 0.05},
    {"operation": "create", "at": "mid_answer", "action": "delay", "ms": 300, "share": 0.3},
)
SUBMIT = {"max_unknown": 1000, "max_unknown_key": 1000}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with run_upstream(tmp_path / "sandbox", account_count=1, time_scale=TIME_SCALE) as running:
        yield running


async def test_a_few_kills_under_load_lose_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    assert await ride_out(tmp_path, sandbox, ROUNDS_COUNT) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_two_hundred_kills_under_load_lose_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    assert await ride_out(tmp_path, sandbox, LONG_ROUNDS_COUNT) == []


async def ride_out(tmp_path: Path, sandbox: Sandbox, rounds_count: int) -> list[str]:
    """Kill the server so many times, let it come to rest, and return all that is wrong then."""
    source, rounds = random.Random(SEED), count(1)
    credential = credential_of(1)
    sandbox.set_faults(*FAULTS)
    settings = make_settings(tmp_path / "data", sandbox.url, submit=SUBMIT)
    with serving(settings, credential, folder=tmp_path) as server:
        keys = create_keys(server, KEYS_COUNT)
        async with crowded([server], keys, CLIENTS_COUNT, source) as crowd:
            await kill_again_and_again(
                server, source, ALIVE_S_MAX, lambda: next(rounds) > rounds_count
            )
            server.start()
        server.stop()
        recover(server, sandbox.url, credential)
        books = server.read_books()
        differences = [
            *judge(books, sandbox, crowd),
            *compare_usage(report_usage(server), books, sandbox.read_truth()),
        ]
        print(f"\nseed {SEED}", *describe(books, sandbox, crowd), sep="\n")
        print(*differences, sep="\n")
        assert server.kill_count == rounds_count
        return differences
