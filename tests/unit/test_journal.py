"""The outcome journal on real files: torn, damaged, shared, on a full disk and on a broken one."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from gateway.domain.tasks import Event, TaskError
from gateway.errors import StorageUnavailable
from gateway.journal import (
    BALLAST_BYTES,
    BALLAST_FILE,
    DAMAGED_FILE,
    JOURNAL_FILE,
    FileJournal,
    has_pending,
    open_journal,
)
from gateway.ports import JournalEntry

REPOSITORY = Path(__file__).resolve().parents[2]
TMPFS_BYTES = 1024 * 1024


def an_entry(number: int = 0) -> JournalEntry:
    return JournalEntry(
        task_id=f"cgt-20261124160000-{number:020d}",
        event=Event.ACCEPTED,
        at_ms=1_795_330_862_000 + number,
        upstream_task_id=f"up-{number}",
        upstream_request_id=f"req-{number}",
    )


A_REFUSAL = JournalEntry(
    task_id="cgt-20261124160000-00000000000000000000",
    event=Event.REFUSED,
    at_ms=1_795_330_862_000,
    error=TaskError("InvalidParameter", 'Lines\nand "quotes", \u4e2d\u6587, \U0001f3a5, \ud800.'),
)
A_LOSS = JournalEntry("cgt-20261124160000-00000000000000000001", Event.LOST, 1_795_330_862_001)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[FileJournal]:
    opened = await open_journal(tmp_path)
    yield opened
    await opened.close()


async def read(folder: Path) -> tuple[list[JournalEntry], int]:
    """Return what another process would find."""
    other = await open_journal(folder)
    try:
        contents = await other.read_all()
    finally:
        await other.close()
    return list(contents.entries), contents.damaged_count


async def test_what_is_appended_is_found_by_the_next_process(
    journal: FileJournal, tmp_path: Path
) -> None:
    assert not has_pending(tmp_path)
    entries = [an_entry(), A_REFUSAL, A_LOSS]
    for entry in entries:
        await journal.append(entry)

    assert has_pending(tmp_path)
    assert await read(tmp_path) == (entries, 0)


async def test_an_entry_that_is_appended_again_is_the_same_one(
    journal: FileJournal, tmp_path: Path
) -> None:
    for entry in (an_entry(), A_LOSS, an_entry()):
        await journal.append(entry)

    assert await read(tmp_path) == ([an_entry(), A_LOSS], 0)
    await journal.forget([an_entry()])
    assert await read(tmp_path) == ([A_LOSS], 0)


async def test_many_at_once_are_all_there(journal: FileJournal, tmp_path: Path) -> None:
    entries = [an_entry(number) for number in range(200)]

    await asyncio.gather(*map(journal.append, entries))

    found, damaged_count = await read(tmp_path)
    assert sorted(found, key=lambda each: each.at_ms) == entries
    assert damaged_count == 0


async def test_its_files_are_private_and_the_ballast_takes_up_room(
    journal: FileJournal, tmp_path: Path
) -> None:
    await journal.append(an_entry())
    ballast = (tmp_path / BALLAST_FILE).stat()

    assert (tmp_path / JOURNAL_FILE).stat().st_mode & 0o777 == 0o600
    assert ballast.st_mode & 0o777 == 0o600
    assert ballast.st_size == BALLAST_BYTES
    assert ballast.st_blocks * 512 >= BALLAST_BYTES


async def test_long_words_are_cut_and_the_entry_is_still_known(
    journal: FileJournal, tmp_path: Path
) -> None:
    wordy = replace(A_REFUSAL, error=TaskError("c" * 5000, "\U0001f3a5" * 5000))

    await journal.append(wordy)

    ((found,), _) = await read(tmp_path)
    assert found.error == TaskError("c" * 1000, "\U0001f3a5" * 1000)
    await journal.forget([wordy])
    assert await read(tmp_path) == ([], 0)


@pytest.mark.parametrize(
    "entry",
    [replace(A_LOSS, event=Event.SUCCEEDED), replace(A_LOSS, upstream_task_id="u" * 20_000)],
    ids=["no outcome", "too long"],
)
async def test_what_could_not_be_read_again_is_refused(
    journal: FileJournal, tmp_path: Path, entry: JournalEntry
) -> None:
    with pytest.raises(ValueError, match=r"outcome|too long"):
        await journal.append(entry)

    assert not has_pending(tmp_path)


async def test_it_holds_so_many_entries_and_no_more(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path, entries_max=2)
    for number in range(2):
        await journal.append(an_entry(number))

    with pytest.raises(StorageUnavailable, match="full"):
        await journal.append(an_entry(2))

    await journal.forget([an_entry(0)])
    await journal.append(an_entry(3))
    with pytest.raises(StorageUnavailable, match="full"):
        await journal.append(an_entry(4))
    await journal.close()
    assert await read(tmp_path) == ([an_entry(1), an_entry(3)], 0)


async def test_a_closed_one_refuses(tmp_path: Path) -> None:
    journal = await open_journal(tmp_path)
    await journal.close()
    await journal.close()

    with pytest.raises(StorageUnavailable):
        await journal.append(an_entry())


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"")
    (tmp_path / JOURNAL_FILE).symlink_to(elsewhere)

    with pytest.raises(StorageUnavailable, match="can't be opened"):
        await open_journal(tmp_path)


async def test_without_its_folder_it_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="can't be opened"):
        await open_journal(tmp_path / "none")


# --- damage -------------------------------------------------------------------------------------


async def test_a_write_torn_at_any_byte_costs_that_entry_alone(
    journal: FileJournal, tmp_path: Path
) -> None:
    path = tmp_path / JOURNAL_FILE
    await journal.append(an_entry())
    first_bytes = path.stat().st_size
    await journal.append(A_REFUSAL)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A line that lacks nothing but its end is whole.
        expected = [an_entry()] * (cut >= first_bytes - 1) + [A_REFUSAL] * (cut >= len(whole) - 1)
        is_torn = cut not in {0, first_bytes - 1, first_bytes, len(whole) - 1, len(whole)}

        contents = await journal.read_all()
        assert (list(contents.entries), contents.damaged_count) == (expected, int(is_torn)), cut

        await journal.append(A_LOSS)
        contents = await journal.read_all()
        assert list(contents.entries) == [*expected, A_LOSS], cut
        assert contents.damaged_count == int(is_torn), cut


async def test_no_damaged_byte_makes_another_entry(journal: FileJournal, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    for entry in (an_entry(), A_REFUSAL):
        await journal.append(entry)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for mask in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[offset] ^= mask
            path.write_bytes(damaged)

            contents = await journal.read_all()

            assert set(contents.entries) < {an_entry(), A_REFUSAL} or (
                # The file's last byte ends a line that is whole without it, unless it goes on.
                offset == len(whole) - 1 and len(contents.entries) == 2
            ), (offset, mask)


async def test_garbage_is_counted_set_aside_and_never_believed(
    journal: FileJournal, tmp_path: Path
) -> None:
    draw = Random(4)
    path = tmp_path / JOURNAL_FILE
    await journal.append(an_entry())
    sound = path.read_bytes()
    garbage = [
        b"\0" * 4096,
        b"{}",
        b"null",
        b'{"v":1,"crc":"00000000"}',
        b"[" * 100_000,
        sound.strip().replace(b"up-0", b"up-1"),
        sound.strip() + b" ",
        b"\xff\xfe",
        *(draw.randbytes(50).replace(b"\n", b"-") for _ in range(50)),
    ]
    path.write_bytes(b"\n".join([*garbage[:4], sound.strip(), *garbage[4:], b"", b""]))

    contents = await journal.read_all()
    assert list(contents.entries) == [an_entry()]
    assert contents.damaged_count >= len(garbage)

    await journal.append(A_LOSS)
    await journal.forget([an_entry()])

    assert await read(tmp_path) == ([A_LOSS], 0)
    aside = tmp_path / DAMAGED_FILE
    assert aside.stat().st_mode & 0o777 == 0o600
    assert all(each in aside.read_bytes() for each in garbage if len(each) < 10_000)


async def test_what_is_set_aside_is_bounded(journal: FileJournal, tmp_path: Path) -> None:
    for _ in range(3):
        (tmp_path / JOURNAL_FILE).write_bytes(b"garbage\n" * 100_000)
        await journal.forget([])
        assert not has_pending(tmp_path)

    assert (tmp_path / DAMAGED_FILE).stat().st_size == 1024 * 1024


# --- forgetting ---------------------------------------------------------------------------------


async def test_forgetting_leaves_the_others(journal: FileJournal, tmp_path: Path) -> None:
    entries = [an_entry(number) for number in range(5)]
    for entry in entries:
        await journal.append(entry)

    await journal.forget(entries[1:3])
    await journal.append(A_LOSS)

    assert await read(tmp_path) == ([entries[0], entries[3], entries[4], A_LOSS], 0)
    assert (tmp_path / JOURNAL_FILE).stat().st_mode & 0o777 == 0o600
    await journal.forget([*entries, A_LOSS])
    assert (tmp_path / JOURNAL_FILE).stat().st_size == 0


async def test_a_rewrite_that_was_cut_short_does_no_harm(
    journal: FileJournal, tmp_path: Path
) -> None:
    (tmp_path / f".{JOURNAL_FILE}.new").write_bytes(b"left by a crash\n" * 1000)
    for number in range(2):
        await journal.append(an_entry(number))

    await journal.forget([an_entry(0)])

    assert await read(tmp_path) == ([an_entry(1)], 0)


async def test_two_processes_may_share_a_folder(journal: FileJournal, tmp_path: Path) -> None:
    other = await open_journal(tmp_path)
    await journal.append(an_entry(0))
    await other.append(an_entry(1))

    await journal.forget([an_entry(0)])  # which puts another file in its place
    await other.append(an_entry(2))
    await journal.append(an_entry(3))

    assert await read(tmp_path) == ([an_entry(1), an_entry(2), an_entry(3)], 0)
    (tmp_path / JOURNAL_FILE).unlink()
    await other.append(an_entry(4))
    assert await read(tmp_path) == ([an_entry(4)], 0)
    await other.close()


# --- disks --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={TMPFS_BYTES},mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all room that is left; return the file that holds it."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"\1" * 4096):
            pass
    assert shutil.disk_usage(folder).free == 0
    return path


async def append_until_refused(journal: FileJournal, first: int, last: int) -> int:
    """Append entries until the disk has no room, which its last block has for some; count them."""
    for number in range(first, last):
        try:
            await journal.append(an_entry(number))
        except StorageUnavailable as error:
            if "No space left" not in error.message:
                raise
            return number - first
    raise AssertionError("the disk was never full")


async def test_on_a_full_disk_the_ballast_makes_room(small_disk: Path) -> None:
    journal = await open_journal(small_disk)
    entries = [an_entry(number) for number in range(1000)]
    fill(small_disk)

    for entry in entries:
        await journal.append(entry)

    assert not (small_disk / BALLAST_FILE).exists()
    assert await read(small_disk) == (entries, 0)
    filler = fill(small_disk)
    written_count = len(entries) + await append_until_refused(journal, len(entries), 2000)
    assert await read(small_disk) == ([an_entry(n) for n in range(written_count)], 0)

    filler.unlink()
    await journal.append(A_LOSS)
    contents = await journal.read_all()
    assert len(contents.entries) == written_count + 1
    await journal.forget(contents.entries)
    assert (small_disk / BALLAST_FILE).stat().st_size == BALLAST_BYTES
    await journal.close()


async def test_a_journal_is_emptied_on_a_full_disk(small_disk: Path) -> None:
    journal = await open_journal(small_disk)
    await journal.append(an_entry())
    fill(small_disk)

    await journal.forget([an_entry()])

    assert await read(small_disk) == ([], 0)
    await journal.close()


async def test_without_room_for_a_ballast_it_opens_and_refuses_cleanly(small_disk: Path) -> None:
    filler = fill(small_disk)
    journal = await open_journal(small_disk)

    assert not (small_disk / BALLAST_FILE).exists()
    with pytest.raises(StorageUnavailable, match="No space left"):
        await journal.append(an_entry())

    filler.unlink()
    await journal.append(A_LOSS)
    assert await read(small_disk) == ([A_LOSS], 0)
    await journal.close()


APPEND_THREE = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from gateway.errors import StorageUnavailable
from gateway.journal import open_journal
from tests.unit.test_journal import an_entry

async def main():
    # One thread: strace counts the calls of each by itself.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    journal = await open_journal(Path(sys.argv[1]))
    for number in range(3):
        try:
            await journal.append(an_entry(number))
        except StorageUnavailable as error:
            print("refused", number, error.message)
        else:
            print("stored", number)
    await journal.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("fsync:error=EIO:when=1", "Input/output error"),
        ("write:error=EIO:when=1", "Input/output error"),
        ("write:error=EDQUOT:when=1..2", "quota"),
    ],
)
async def test_a_disk_that_fails_is_told_and_the_next_entry_is_whole(
    tmp_path: Path, fault: str, word: str
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace injects the fault, and is not there")
    (tmp_path / JOURNAL_FILE).touch()
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(tmp_path / JOURNAL_FILE)),
            *("-e", f"inject={fault}"),
            *(sys.executable, "-c", APPEND_THREE, str(tmp_path)),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("refused 0 "), (done.stdout, done.stderr)
    assert word in lines[0]
    assert lines[1:] == ["stored 1", "stored 2"]
    entries, damaged_count = await read(tmp_path)
    assert entries[-2:] == [an_entry(1), an_entry(2)]
    assert damaged_count == 0
