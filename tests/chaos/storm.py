"""A storm: a server killed at random moments, under clients that never give up."""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Final

from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.flows import Order
from tests.chaos.serving import Server
from tests.chaos.sweep import find_duplicates
from tests.chaos.upstream import Sandbox
from tests.support.gateway import REPOSITORY, make_environment
from tests.support.oracle import ENDED, Books, find_differences

KILLED_EARLY_SHARE: Final = 0.25
"""Of the starts: killed before they are done."""
START_S: Final = 0.7
_RECOVERY_S_MAX: Final = 600.0
_LOOK_S: Final = 0.5


async def kill_again_and_again(
    server: Server, source: random.Random, alive_s: float, is_over: Callable[[], bool]
) -> None:
    """Start the server and kill it, anywhere in `alive_s` from its start, until it is over."""
    while not is_over():
        await asyncio.to_thread(server.spawn)
        if source.random() < KILLED_EARLY_SHARE:
            await asyncio.sleep(source.uniform(0, START_S))
        else:
            assert await asyncio.to_thread(server.wait_until_ready)
            await asyncio.sleep(source.uniform(0, alive_s))
        await asyncio.to_thread(server.kill)


@asynccontextmanager
async def crowded(
    servers: Sequence[Server],
    keys: Sequence[str],
    count: int,
    source: random.Random,
    pause_s: float = 0.2,
) -> AsyncIterator[Crowd]:
    """Let so many clients submit while the block runs; they get their last answers after it.

    The block has to leave them servers that answer.
    """
    async with open_crowd(servers, keys, source, pause_s) as crowd, asyncio.TaskGroup() as group:
        clients = group.create_task(crowd.run(count))
        try:
            yield crowd
        except BaseException:
            clients.cancel()
            raise
        crowd.is_over = True


def recover(server: Server, upstream_url: str, credential: str) -> None:
    """Do what the next start does, in hours that pass at once."""
    order = Order("recover", str(server.data_dir), upstream_url, credential)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.flows", json.dumps(asdict(order))],
        check=False,
        capture_output=True,
        text=True,
        timeout=_RECOVERY_S_MAX,
        cwd=REPOSITORY,
        env=make_environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]


def judge(books: Books, sandbox: Sandbox, crowd: Crowd) -> list[str]:
    """Return all that is wrong once everything has come to rest."""
    truth = sandbox.read_truth()
    known_ids = {task["id"] for task in books.tasks}
    return [
        *crowd.complaints,
        *(f"{wish}: no answer" for wish in crowd.wishes - crowd.task_ids.keys()),
        *(f"{wish}: {id_} is gone" for wish, id_ in crowd.task_ids.items() if id_ not in known_ids),
        *find_differences(books, truth),
        *find_duplicates(truth),
    ]


async def wait_until_settled(read: Callable[[], Books | Awaitable[Books]], limit_s: float) -> float:
    """Wait until every task has ended, that long at most; return how many seconds it took."""
    began_s = time.monotonic()
    while True:
        found = read()
        books = found if isinstance(found, Books) else await found
        unfinished = [task for task in books.tasks if task["state"] not in ENDED]
        waited_s = time.monotonic() - began_s
        if not unfinished or waited_s > limit_s:
            return waited_s
        await asyncio.sleep(min(_LOOK_S, limit_s))


def describe(books: Books, sandbox: Sandbox, crowd: Crowd) -> Iterator[str]:
    """Yield the lines that tell what happened."""
    truth = sandbox.read_truth()
    states = Counter(task["state"] for task in books.tasks)
    lost_count = sum(move["to_state"] == "unknown" for move in books.transitions)
    starts_count = sum(server.start_count for server in crowd.servers)
    kills_count = sum(server.kill_count for server in crowd.servers)
    yield f"starts {starts_count}, killed {kills_count}"
    yield (
        f"requests {crowd.asked_count}, broken {crowd.broken_count}, put off {crowd.put_off_count},"
        f" wishes {len(crowd.wishes)}, answered {len(crowd.task_ids)}"
    )
    yield "tasks " + ", ".join(f"{state} {number}" for state, number in sorted(states.items()))
    yield f"submissions whose outcome was unknown for a time {lost_count}"
    yield f"made upstream {len(truth)}, billed {sum(task['billed'] for task in truth)}"
