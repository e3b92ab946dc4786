"""What a caller was told is written was handed to the disk first: a power loss does not undo it.

A kill leaves the page cache behind, and proves nothing of this. So the calls of a process are
recorded, and no write to a file that counts may be unsynced at the moment of telling.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.gateway import REPOSITORY, make_environment
from tests.support.strace import require_strace

COUNT: Final = 20
WRITE_TO_STORE: Final = """
import asyncio, os, sys
from pathlib import Path
from gateway.config import StorageConfig
from gateway.storage import audit
from gateway.storage.sqlite import _Job, open_sqlite
from tests.support.stored import an_event

def lower(conn):
    conn.exec_driver_sql("PRAGMA synchronous = NORMAL")

async def main():
    db = await open_sqlite(Path(sys.argv[1]) / "gateway.db", StorageConfig())
    if sys.argv[2] == "lowered":
        await db._writes.ask(_Job(lower, is_transaction=False))
    for number in range(20):
        await db.write(audit.add, an_event("told", number))
        os.write(1, b"told\\n")
    await db.close()

asyncio.run(main())
"""
WRITE_TO_JOURNAL: Final = """
import asyncio, os, sys
from pathlib import Path
from gateway.domain.tasks import Event
from gateway.journal import open_journal
from gateway.ports import JournalEntry

async def main():
    journal = await open_journal(Path(sys.argv[1]))
    for number in range(20):
        await journal.append(JournalEntry(f"task-{number}", Event.ACCEPTED, number, f"up-{number}"))
        os.write(1, b"told\\n")
    await journal.close()

asyncio.run(main())
"""


def record(source: str, folder: Path, *arguments: str) -> Sequence[str]:
    """Run a program under strace; return its writes and syncs, a line each, with the file."""
    require_strace()
    calls = folder / "calls"
    done = subprocess.run(
        [
            *("strace", "-f", "-qq", "-y", "-o", str(calls)),
            *("-e", "trace=pwrite64,write,fsync,fdatasync", "-e", "signal=none"),
            *(sys.executable, "-c", source, str(folder), *arguments),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=make_environment(),
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("told") == COUNT
    return calls.read_text().splitlines()


def find_unsynced(lines: Sequence[str], file: Path) -> Iterator[int]:
    """Yield the number of each telling at which a write to the file waited for the disk."""
    is_dirty, told_count = False, 0
    syncing: dict[str, bool] = {}
    for line in lines:
        thread = line.split(" ", 1)[0]
        if f"<{file}>" in line and re.search(r"\b(pwrite64|write)\(", line):
            is_dirty = True
        elif f"<{file}>" in line and re.search(r"\b(fsync|fdatasync)\(", line):
            if "<unfinished" in line:
                syncing[thread] = True
            elif line.endswith("= 0"):
                is_dirty = False
        elif "sync resumed>" in line and syncing.pop(thread, False) and line.endswith("= 0"):
            is_dirty = False
        elif '"told\\n"' in line and re.search(r"\bwrite\(1<", line):
            told_count += 1
            if is_dirty:
                yield told_count


def test_what_the_store_tells_is_on_the_disk(tmp_path: Path) -> None:
    lines = record(WRITE_TO_STORE, tmp_path, "as it is")

    assert list(find_unsynced(lines, tmp_path / "gateway.db-wal")) == []


def test_with_a_lower_setting_of_the_store_it_would_not_be(tmp_path: Path) -> None:
    """The control: that the test above can fail."""
    lines = record(WRITE_TO_STORE, tmp_path, "lowered")

    assert len(list(find_unsynced(lines, tmp_path / "gateway.db-wal"))) == COUNT


def test_what_the_journal_tells_is_on_the_disk(tmp_path: Path) -> None:
    lines = record(WRITE_TO_JOURNAL, tmp_path)

    assert list(find_unsynced(lines, tmp_path / "outcomes.journal")) == []
    assert any(f"<{tmp_path / 'outcomes.journal'}>" in line for line in lines)
