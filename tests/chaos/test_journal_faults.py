"""A database that fails while an outcome is written: the journal has it, on a full disk, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.journal import BALLAST_FILE, JOURNAL_FILE, has_pending
from gateway.runtime import DATABASE_FILE
from tests.chaos.bench import Bench
from tests.chaos.sweep import KEY
from tests.support.oracle import find_differences, read_books
from tests.support.strace import Injection, count_of

pytestmark = [pytest.mark.timeout(400), pytest.mark.long]

SAMPLE_COUNT = 2
STORE_CALLS = ("pwrite64", "fdatasync")
ERRORS = ("error=EIO", "error=ENOSPC")
# The journal's own first write fails, too: it gives up its ballast then, and writes again.
FULL = Injection("write", 1, "error=ENOSPC")


@pytest.fixture(scope="module")
def prepared(bench: Bench) -> Path:
    folder = bench.new_folder()
    bench.run(bench.order("prepare", folder, bench.sandbox.open_account()))
    return folder


@pytest.fixture(scope="module")
def store_faults(bench: Bench, prepared: Path) -> list[Injection]:
    """Every write of the database after a submit has left: it fails from then on."""
    order = bench.order(
        "submit", bench.new_folder(prepared), bench.sandbox.open_account(), idempotency_key=KEY
    )
    bench.record_points(order)
    record = bench.record_of(order)
    return [
        Injection(call, number, ERRORS[number % 2], is_lasting=True)
        for call in STORE_CALLS
        for number in range(
            count_of(record, call, before="connect") + 1, count_of(record, call) + 1
        )
    ]


def test_a_sample_of_outcomes_is_journalled(
    bench: Bench, prepared: Path, store_faults: list[Injection]
) -> None:
    journalled: list[str] = []
    by_call = [[each for each in store_faults if each.call == call] for call in STORE_CALLS]
    chosen = [each for of_call in by_call for each in of_call[:SAMPLE_COUNT]]

    assert [wrong for each in chosen for wrong in fail(bench, prepared, each, journalled)] == []
    assert len(journalled) >= len(chosen)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_outcome_is_journalled(
    bench: Bench, prepared: Path, store_faults: list[Injection]
) -> None:
    journalled: list[str] = []

    wrong = [line for each in store_faults for line in fail(bench, prepared, each, journalled)]

    print(f"\n{2 * len(store_faults)} faults, {len(journalled)} outcomes in the journal")
    assert wrong == []


def fail(bench: Bench, prepared: Path, fault: Injection, journalled: list[str]) -> Iterator[str]:
    """Let the database fail from one call on, with and without room for the journal.

    Yield what is wrong then, or after the next start, which has no need to ask the upstream's list.
    """
    for is_full in (False, True):
        folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
        order = bench.order("submit", folder, credential, idempotency_key=KEY)
        bench.run_faulty(order, fault, *([FULL] if is_full else []))
        (made,) = bench.sandbox.read_truth(credential)
        name = f"{fault}, {'a full' if is_full else 'no full'} disk"
        is_stored = made["id"] in read_books(folder / DATABASE_FILE).upstream_task_ids
        if is_stored:  # by what had been written before
            continue
        journalled.append(name)
        if made["id"] not in (folder / JOURNAL_FILE).read_text():
            yield f"{name}: {made['id']} is nowhere"
        if is_full and (folder / BALLAST_FILE).exists():
            yield f"{name}: the ballast is still there"
        bench.run(bench.order("recover", folder, credential))
        books = read_books(folder / DATABASE_FILE)
        yield from find_differences(books, bench.sandbox.read_truth(credential))
        if any(move["to_state"] == "unknown" for move in books.transitions):
            yield f"{name}: the outcome had to be found in the list"
        if has_pending(folder):
            yield f"{name}: the journal was not emptied"
