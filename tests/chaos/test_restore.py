"""A backup made under load is restored: what it has goes on, what it lacks is accounted for."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.serving import TIME_SCALE, Server, create_keys, make_settings, serving
from tests.chaos.storm import crowded, wait_until_settled
from tests.chaos.sweep import find_duplicates
from tests.chaos.upstream import Sandbox, credential_of, run_upstream
from tests.support.oracle import find_differences

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SEED = 20261128
CLIENTS_COUNT = 6
WISHES_COUNT = 12
"""That many are answered before the backup, and as many after it."""
SETTLED_S_MAX = 60.0
NO_LIST = {"operation": "list", "at": "before_read", "action": "drop"}
SLOW = {"operation": "create", "at": "before_create", "action": "delay", "ms": 300, "share": 0.5}


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with run_upstream(tmp_path / "sandbox", account_count=1, time_scale=TIME_SCALE) as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, sandbox: Sandbox) -> Iterator[Server]:
    settings = make_settings(tmp_path / "data", sandbox.url)
    with serving(settings, credential_of(1), folder=tmp_path) as server:
        yield server


async def test_a_backup_under_load_is_restored_and_what_it_lacks_are_orphans(
    tmp_path: Path, server: Server, sandbox: Sandbox
) -> None:
    (key,) = create_keys(server, 1)
    backup = tmp_path / "backup.db"
    sandbox.set_faults(SLOW)
    server.start()
    async with crowded([server], [key], CLIENTS_COUNT, random.Random(SEED)) as crowd:
        await crowd.wait_for_answers(WISHES_COUNT)
        await asyncio.to_thread(server.run_command, "backup", "--to", str(backup))
        await crowd.wait_for_answers(WISHES_COUNT)
    server.kill()
    made_count = len(sandbox.read_truth())

    server.run_command("restore", str(backup))
    sandbox.set_faults(NO_LIST)
    server.start()
    known = {task["id"] for task in server.read_books().tasks}
    kept = {wish: task_id for wish, task_id in crowd.task_ids.items() if task_id in known}
    assert 0 < len(kept) < len(crowd.task_ids)
    async with open_crowd([server], [key], random.Random(SEED)) as again:
        await see_that_submits_wait(again, key, next(iter(kept.values())))
        assert len(sandbox.read_truth()) == made_count
        sandbox.set_faults()
        await again.submit(key, "new")
        for wish in kept:
            await again.submit(key, wish)
        assert {wish: again.task_ids[wish] for wish in kept} == kept
    await wait_until_settled(server.read_books, SETTLED_S_MAX)

    books, truth = server.read_books(), sandbox.read_truth()
    recorded = set(books.upstream_task_ids)
    assert len(truth) == made_count + 1
    assert set(books.orphans) == {made["id"] for made in truth} - recorded
    assert find_differences(books, [made for made in truth if made["id"] in recorded]) == []
    assert list(find_duplicates(truth)) == []
    server.stop()


async def see_that_submits_wait(crowd: Crowd, key: str, task_id: str) -> None:
    """Until the lists were compared nothing is let in, and tasks are shown."""
    refused = await crowd.ask(key, "early")
    shown = await crowd.read(key, task_id)

    assert refused is not None
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "Reconciling"
    assert shown.status_code == 200
