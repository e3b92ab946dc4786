"""Kill at every call: scenes to kill in, what is done after each kill, and what is found then.

Every trial goes the same way: a copy of a data folder, a flow that is killed at one call, a start
that recovers for some hours, the client's second attempt with the same idempotency key, another
recovery, and the oracle's judgement.
"""

import random
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from gateway.runtime import DATABASE_FILE
from tests.chaos.bench import Bench
from tests.chaos.flows import Order
from tests.chaos.upstream import TIME_SCALE
from tests.support.oracle import Books, Truth, find_differences, read_books
from tests.support.strace import KILL, Injection

PRELUDE: Final = "before"
KEY: Final = "wanted"
_HOUR_S: Final = 3600.0
LATER_S: Final = 6 * _HOUR_S
"""When the client comes again: long after whatever the first attempt came to has been found out."""

NOTHING: Final = "nothing anywhere"
RECORDED: Final = "recorded"
PROVEN_ABSENT: Final = "proven absent"
REFUSED: Final = "refused"
OUTCOMES: Final = (NOTHING, RECORDED, PROVEN_ABSENT, REFUSED)


@dataclass(frozen=True, slots=True)
class Scene:
    """A flow, and what is there when it begins.

    `credential` is that of the account in which the template's tasks were made. Without one each
    trial has an account of its own, and begins with a submit that nobody disturbs.
    """

    name: str
    flow: str
    template: Path | None
    credential: str | None = None
    ahead_s: float = 0.0
    unpriced: frozenset[str] = frozenset()
    comes_again: bool = True
    """Whether the client does, with the key of its first attempt."""
    magic: str = ""
    prelude_magic: str = ""
    is_slow: bool = False
    """Whether tasks go on at the upstream, as slowly as real ones, until the flow has ended."""
    faults: tuple[Injection, ...] = ()
    """What goes wrong besides."""
    may_be_refused: bool = False
    """Whether a client that comes again may be told the upstream's refusal."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One fault, and what it came to."""

    scene: str
    injection: Injection
    outcome: str
    differences: Sequence[str]
    was_hit: bool


@dataclass(slots=True)
class Tally:
    """All trials of a sweep."""

    trials: list[Trial] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        return [
            f"{trial.scene}, {trial.injection}: {difference}"
            for trial in self.trials
            for difference in trial.differences
        ]

    def render(self) -> str:
        """Return the table: for each scene and kind of call, how many trials ended how."""
        counts = Counter((t.scene, t.injection.call, t.outcome) for t in self.trials)
        rows = sorted({(scene, call) for scene, call, _ in counts})
        lines = [f"{'scene':<12}{'call':<12}" + "".join(f"{each:>18}" for each in OUTCOMES)]
        for scene, call in rows:
            cells = "".join(f"{counts[scene, call, each]:>18}" for each in OUTCOMES)
            lines.append(f"{scene:<12}{call:<12}{cells}")
        totals = Counter(trial.outcome for trial in self.trials)
        lines.append(f"{'all':<24}" + "".join(f"{totals[each]:>18}" for each in OUTCOMES))
        hit_count = sum(trial.was_hit for trial in self.trials)
        lines.append(f"{len(self.trials)} points, {hit_count} hit, {len(self.differences)} differ")
        return "\n".join(lines)


def sweep(bench: Bench, points: Iterable[tuple[Scene, Injection]]) -> Tally:
    """Try every point."""
    return Tally([try_point(bench, scene, injection) for scene, injection in points])


def list_points(bench: Bench, scene: Scene) -> list[tuple[Scene, Injection]]:
    """Return every kill worth trying in a scene."""
    order = _order(bench, scene, bench.new_folder(scene.template))
    with _at_speed_of(bench, scene):
        points = bench.record_points(order, *scene.faults)
    taken = {fault.call for fault in scene.faults}  # of a call, only one thing can go wrong
    return [(scene, injection) for injection in points if injection.call not in taken]


def choose_points(
    points: Sequence[tuple[Scene, Injection]], count: int, seed: int
) -> list[tuple[Scene, Injection]]:
    """Return a sample: as many of each scene as of any other, spread over the kinds of calls."""
    source = random.Random(seed)
    by_scene: dict[str, dict[str, list[tuple[Scene, Injection]]]] = {}
    for point in points:
        by_scene.setdefault(point[0].name, {}).setdefault(point[1].call, []).append(point)
    calls = {name: source.sample(sorted(of), len(of)) for name, of in sorted(by_scene.items())}
    names = list(calls)
    chosen = []
    for number in range(count):
        turn, place = divmod(number, len(names))
        name = names[place]
        # Another kind of call in each turn, and not the same kinds for all scenes.
        call = calls[name][turn % len(calls[name])]
        chosen.append(source.choice(by_scene[name][call]))
    return chosen


def try_point(bench: Bench, scene: Scene, injection: Injection) -> Trial:
    """Let one call go wrong, recover, come again, recover, and compare the books with the truth."""
    folder = bench.new_folder(scene.template)
    order = _order(bench, scene, folder)
    with _at_speed_of(bench, scene):
        ran = bench.run_faulty(order, *scene.faults, injection)
    after = replace(order, flow="recover", prelude="")
    bench.run(after)
    books = read_books(folder / DATABASE_FILE)
    outcome = _outcome_of(scene, books)
    differences: list[str] = []
    if scene.comes_again:
        later = replace(after, ahead_s=LATER_S)
        again = bench.run(replace(later, flow="submit"))
        bench.run(later)
        books = read_books(folder / DATABASE_FILE)
        differences += _judge_answers(scene, ran.answer, again.answer)
    truth = bench.sandbox.read_truth(order.credential)
    differences += find_differences(books, truth, unpriced=scene.unpriced)
    differences += find_duplicates(truth)
    if injection.fault == KILL and ran.exit_code not in {0, -signal.SIGKILL}:
        differences.append(f"the flow ended with {ran.exit_code}: {ran.log.read_text()[-500:]}")
    if not differences:
        bench.forget(folder)
    return Trial(scene.name, injection, outcome, differences, was_hit=ran.exit_code != 0)


def _order(bench: Bench, scene: Scene, folder: Path) -> Order:
    credential = scene.credential or bench.sandbox.open_account()
    is_second = scene.credential is None and scene.template is not None
    return bench.order(
        scene.flow,
        folder,
        credential,
        idempotency_key=KEY,
        ahead_s=scene.ahead_s,
        prelude=PRELUDE if is_second else "",
        magic=scene.magic,
        prelude_magic=scene.prelude_magic,
    )


@contextmanager
def _at_speed_of(bench: Bench, scene: Scene) -> Iterator[None]:
    if scene.is_slow:
        bench.sandbox.set_scale(1.0)
    try:
        yield
    finally:
        if scene.is_slow:
            bench.sandbox.set_scale(TIME_SCALE)


def _outcome_of(scene: Scene, books: Books) -> str:
    """Return what became of the flow's task, if it was to make one, else of every task."""
    tasks = books.tasks[1:] if scene.flow == "submit" else books.tasks
    if not tasks:
        return NOTHING
    if any(task["state"] == "rejected" for task in tasks):
        return REFUSED
    is_recorded = all(task["upstream_task_id"] is not None for task in tasks)
    return RECORDED if is_recorded else PROVEN_ABSENT


def _judge_answers(
    scene: Scene, first: Mapping[str, Any], again: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what a client would complain of that sends the same once more."""
    if again["status"] == 400 and scene.may_be_refused:
        return
    if again["status"] != 200:
        yield f"the second attempt was refused: {again}"
    elif first.get("status") == 200 and first["body"]["id"] != again["body"]["id"]:
        yield f"the second attempt got {again['body']['id']}, the first {first['body']['id']}"


def find_duplicates(truth: Sequence[Truth]) -> Iterator[str]:
    """Yield each prompt, of which every key has its own, that the upstream made more than once."""
    for prompt_hash, count in Counter(task["prompt_hash"] for task in truth).items():
        if count > 1:
            yield f"the upstream made {count} tasks of one request ({prompt_hash[:12]})"
