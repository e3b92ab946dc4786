"""Try the gateway as an operator would, on a bad day, and check every figure of its bill.

`python -m tests.chaos.trial --seconds 120 --concurrent 50` starts a simulated upstream that drops
one answer in five, and a gateway that is killed every few seconds, while so many clients submit.
When the storm is over the gateway gets the time to find out what became of everything. Then its
usage report, its ledger and the upstream's own log have to agree, task by task, to the micro-unit.

Everything is a process of its own, and settled by the real program in real time. What is set is:

- the speed of the upstream, and how soon the observer looks again;
- `submit.max_unknown` and `submit.max_unknown_key`: each kill leaves as many submissions unknown as
  there were in flight, and at the usual limits all others would wait for those;
- the time-outs of a nearby upstream and a short `submit.absence_quiet_s`, so that the absence of a
  submission is proved in two minutes instead of half an hour.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.bills import charge_of, compare_usage, report_usage
from tests.chaos.crowd import Crowd, open_crowd
from tests.chaos.serving import JsonObject, Server, create_keys, make_settings, serving
from tests.chaos.storm import crowded, describe, judge, kill_again_and_again, wait_until_settled
from tests.chaos.upstream import credential_of, run_upstream
from tests.support.oracle import ENDED, Books, Truth

KEYS_COUNT: Final = 5
TIME_SCALE: Final = 100.0
DROPPED: Final = {"operation": "create", "at": "after_create", "action": "drop", "share": 0.2}
SLOW: Final = {"operation": "create", "at": "before_create", "action": "delay", "ms": 500}
NEARBY: Final = {"connect_timeout_s": 1.0, "write_timeout_s": 2.0, "answer_timeout_s": 10.0}
_SETTLED_S_MAX: Final = 600.0


@dataclass(frozen=True, slots=True)
class Options:
    """How bad a day."""

    seconds: float
    concurrent: int
    kill_every_s: float
    seed: int
    folder: Path


async def run_trial(options: Options) -> list[str]:
    """Carry it out, print what happened, and return all that does not agree."""
    credential, source = credential_of(1), random.Random(options.seed)
    with run_upstream(
        options.folder / "sandbox", account_count=1, time_scale=TIME_SCALE
    ) as sandbox:
        sandbox.set_faults(DROPPED, SLOW)
        settings = make_settings(
            options.folder / "data",
            sandbox.url,
            upstream=NEARBY,
            submit={
                "max_unknown": 4 * options.concurrent,
                "max_unknown_key": options.concurrent,
                "absence_quiet_s": 10.0,
            },
        )
        with serving(settings, credential, folder=options.folder) as server:
            keys = create_keys(server, KEYS_COUNT)
            over_at_s = time.monotonic() + options.seconds
            async with crowded([server], keys, options.concurrent, source) as crowd:
                await kill_again_and_again(
                    server, source, 2 * options.kill_every_s, lambda: time.monotonic() > over_at_s
                )
                await asyncio.to_thread(server.start)
            settled_s = await wait_until_settled(server.read_books, _SETTLED_S_MAX)
            unended = [wrong async for wrong in find_unended(server, keys, crowd)]
            usage = report_usage(server)
            server.stop()
            books, truth = server.read_books(), sandbox.read_truth()
            differences = [
                *unended,
                *judge(books, sandbox, crowd),
                *compare_usage(usage, books, truth),
            ]
            print(f"\nseed {options.seed}, settled after {settled_s:.0f} s")
            print(*describe(books, sandbox, crowd), sep="\n")
            print(*_render(usage, books, truth), sep="\n")
            print(f"{len(differences)} differ", *differences, sep="\n")
            return differences


async def find_unended(server: Server, keys: Sequence[str], crowd: Crowd) -> AsyncIterator[str]:
    """Yield each id that a client was told, and that does not show it a task that has ended."""
    async with open_crowd([server], keys, random.Random()) as readers:
        for wish, task_id in crowd.task_ids.items():
            answer = await readers.read(keys[0], task_id)
            if answer.status_code != 200 or answer.json()["status"] not in ENDED:
                yield f"{wish}: {task_id} is shown as {answer.text}"


def _render(usage: Sequence[JsonObject], books: Books, truth: Sequence[Truth]) -> Iterator[str]:
    """Yield the table: the same sums from the report, the ledger and the upstream's log."""
    settled = [row for row in books.entries if row["kind"] == "settle"]
    billed = [made for made in truth if made["billed"]]
    tasks = {task["upstream_task_id"]: task["id"] for task in books.tasks}
    known = [made for made in billed if made["id"] in tasks]
    owed = sum(charge_of(tasks[made["id"]], made, books) for made in known)
    yield f"{'':<16}{'tasks':>10}{'tokens':>16}{'charge in micros':>20}"
    yield _line("usage report", usage, "tokens", _sum(usage, "charge_micros"))
    yield _line("ledger", settled, "spent_tokens", _sum(settled, "spent_micros"))
    yield _line("upstream's log", billed, "completion_tokens", owed)


def _line(name: str, rows: Sequence[Mapping[str, Any]], tokens: str, charge: int) -> str:
    return f"{name:<16}{len(rows):>10,}{_sum(rows, tokens):>16,}{charge:>20,}"


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.trial")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--concurrent", type=int, default=50)
    parser.add_argument("--kill-every", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-trial-") as folder:
        options = Options(
            given.seconds, given.concurrent, given.kill_every, given.seed, Path(folder)
        )
        return 1 if asyncio.run(run_trial(options)) else 0


if __name__ == "__main__":
    sys.exit(main())
