"""A disk of a few megabytes that only chosen programs see: mounted in a namespace of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

_MOUNT: Final = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo mounted && exec cat'
_COPY: Final = """
import sqlite3, sys
source, target = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(target)
"""
_LOCK: Final = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None)
conn.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""
_FILLER: Final = "filler"
_STEP_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """`folder` is where programs run by `prefix` see it, `seen` is the same from here."""

    folder: Path
    seen: Path
    prefix: Sequence[str]

    def copy_database(self, name: str, target: Path) -> None:
        """Copy the SQLite database of that name, as it is now, to a place that is not on the disk.

        SQLite must see its files by their own names, so it is done by a program.
        """
        target.unlink(missing_ok=True)
        source = str(self.folder / name)
        subprocess.run([*self.prefix, sys.executable, "-c", _COPY, source, str(target)], check=True)

    @contextmanager
    def locked_database(self, name: str) -> Iterator[None]:
        """Keep everybody from writing to the SQLite database of that name."""
        with subprocess.Popen(
            [*self.prefix, sys.executable, "-c", _LOCK, str(self.folder / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            try:
                yield
            finally:
                holder.stdin.close()

    def fill(self) -> int:
        """Take all the room that there is; return how many bytes that was."""
        taken_bytes = 0
        with (self.seen / _FILLER).open("ab", buffering=0) as filler:
            step = _STEP_BYTES
            while step:
                try:
                    taken_bytes += filler.write(bytes(step))
                except OSError:
                    step //= 2
        return taken_bytes

    def free(self) -> None:
        """Give the room back."""
        (self.seen / _FILLER).unlink(missing_ok=True)


@contextmanager
def mount_small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount an empty disk in a new folder; gone with all that is on it when the block is left.

    Skips the test where that may not be done.
    """
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter (of util-linux) are not installed")
    folder.mkdir()
    is_root = os.geteuid() == 0
    own = () if is_root else ("--user", "--map-root-user")
    with subprocess.Popen(
        ["unshare", "--mount", *own, "sh", "-c", _MOUNT, str(folder), str(size_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"no disk can be mounted here: {holder.stderr.read().decode()[-200:]}")
        entered = () if is_root else ("--user", "--preserve-credentials")
        try:
            yield SmallDisk(
                folder,
                Path(f"/proc/{holder.pid}/root{folder}"),
                ("nsenter", "--target", str(holder.pid), "--mount", *entered),
            )
        finally:
            holder.stdin.close()  # which it lives by
