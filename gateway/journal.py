"""The outcome journal: what came of submits whose outcome the database would not take.

It is `outcomes.journal` in the data folder: one line of JSON an entry, closed by its checksum,
synced to disk before `append` returns. It is empty in good times; what it holds is stored and
forgotten as soon as the database takes it.

A line that a crash has torn, or that anything else has damaged, is never believed: it is counted,
and `forget` moves it to `outcomes.journal.damaged`. So that a full disk does not refuse the journal
as well, `journal.ballast` holds some room, which is given up when there is no other.

Several processes may share the folder: each act holds a lock on it.
"""

import asyncio
import errno
import fcntl
import json
import os
import re
import secrets
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import BinaryIO, Final

from gateway.domain.tasks import Event, TaskError
from gateway.errors import StorageUnavailable
from gateway.ports import JournalContents, JournalEntry

JOURNAL_FILE: Final = "outcomes.journal"
DAMAGED_FILE: Final = "outcomes.journal.damaged"
BALLAST_FILE: Final = "journal.ballast"
BALLAST_BYTES: Final = 256 * 1024
ENTRIES_MAX: Final = 10_000
JOURNALLED: Final = frozenset({Event.ACCEPTED, Event.REFUSED, Event.LOST})
"""The outcomes of a submit."""

_VERSION: Final = 1
_LINE_BYTES_MAX: Final = 16 * 1024
_TEXT_CHARS_MAX: Final = 1000
_DAMAGED_BYTES_MAX: Final = 1024 * 1024
_CHECKSUM: Final = re.compile(rb',"crc":"([0-9a-f]{8})"}\Z')
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FLAGS: Final = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


async def open_journal(folder: Path, *, entries_max: int = ENTRIES_MAX) -> "FileJournal":
    """Open the journal in `folder`, which must exist; lay in the ballast if there is room for it.

    Raises: StorageUnavailable if the file can't be opened.
    """
    return await asyncio.to_thread(FileJournal, folder, entries_max)


def has_pending(folder: Path) -> bool:
    """Whether the journal in `folder` holds anything. Changes nothing."""
    path = folder / JOURNAL_FILE
    return path.exists() and path.stat().st_size > 0


class FileJournal:
    """The Journal port on one file. Made by `open_journal`; its work is done in threads."""

    def __init__(self, folder: Path, entries_max: int) -> None:
        self._path = folder / JOURNAL_FILE
        self._ballast_path = folder / BALLAST_FILE
        self._entries_max = entries_max
        self._waiting: SimpleQueue[_Job] = SimpleQueue()
        self._lock = Lock()
        self._file: int | None = None
        self._known_size = 0
        self._known_count = 0
        self._is_closed = False
        with _telling("opened"):
            self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with self._held():
                    # Kept open from now on: a process out of descriptors can still write to it.
                    self._current_file()
                    self._lay_in_ballast()
            except BaseException:
                self._close()
                raise

    async def append(self, entry: JournalEntry) -> None:
        """Make `entry` durable. Entries that wait together share one sync."""
        job = _Job(_encode(entry))
        self._waiting.put(job)
        await asyncio.to_thread(self._append_waiting, job)

    async def read_all(self) -> JournalContents:
        """Return every entry once, the oldest first, and how many lines are damaged."""
        return await asyncio.to_thread(self._read_all)

    async def forget(self, entries: Collection[JournalEntry]) -> None:
        """Drop these entries, and set damaged lines aside: all of it, or nothing."""
        await asyncio.to_thread(self._forget, frozenset(map(_encode, entries)))

    async def close(self) -> None:
        """Close the file; what is appended after this is refused."""
        await asyncio.to_thread(self._close)

    def _append_waiting(self, job: "_Job") -> None:
        with _telling("written"), self._held():
            if not job.is_done:  # as it is when another thread wrote it with its own
                jobs = [job, *(each for each in self._take_waiting() if each is not job)]
                try:
                    self._write_lines([each.line for each in jobs])
                except (OSError, StorageUnavailable) as error:
                    for each in jobs:
                        each.error = error
                for each in jobs:
                    each.is_done = True
            if job.error is not None:
                raise job.error

    def _take_waiting(self) -> Iterator["_Job"]:
        with suppress(Empty):
            while True:
                job = self._waiting.get_nowait()
                if not job.is_done:
                    yield job

    def _write_lines(self, lines: list[bytes]) -> None:
        file = self._current_file()
        size = os.fstat(file).st_size
        if size != self._known_size:  # another process wrote, or it was just opened
            self._known_count = sum(entry is not None for _, entry in self._scan())
            self._known_size = size
        if self._known_count + len(lines) > self._entries_max:
            raise StorageUnavailable("The outcome journal is full.")
        # What a crash has torn must not tear the next line, too.
        is_torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        content = b"\n" * is_torn + b"\n".join(lines) + b"\n"
        try:
            _write_durably(file, content)
        except OSError as error:
            if error.errno not in _NO_ROOM or not self._drop_ballast():
                raise
            _write_durably(file, content)
        self._known_size = os.fstat(file).st_size
        self._known_count += len(lines)

    def _read_all(self) -> JournalContents:
        with _telling("read"), self._held():
            self._current_file()
            entries: dict[JournalEntry, None] = {}
            damaged_count = 0
            for _, entry in self._scan():
                if entry is None:
                    damaged_count += 1
                elif len(entries) < self._entries_max:
                    entries[entry] = None  # once, also if a failed append was repeated
            return JournalContents(tuple(entries), damaged_count)

    def _forget(self, gone: frozenset[bytes]) -> None:
        with _telling("rewritten"), self._held():
            file = self._current_file()
            if all(entry is not None and _encode(entry) in gone for _, entry in self._scan()):
                os.ftruncate(file, 0)  # needs no room, as a new file would
                os.fsync(file)
            else:
                self._rewrite_without(gone)
            self._lay_in_ballast()

    def _rewrite_without(self, gone: frozenset[bytes]) -> None:
        scratch = self._path.with_name(f".{JOURNAL_FILE}.new")
        damaged = bytearray()
        try:
            with _open_for_writing(scratch, os.O_TRUNC) as new:
                for line, entry in self._scan():
                    if entry is None:
                        damaged += (line + b"\n")[: _DAMAGED_BYTES_MAX - len(damaged)]
                    elif _encode(entry) not in gone:
                        new.write(line + b"\n")
                new.flush()
                os.fsync(new.fileno())
            self._set_aside(bytes(damaged))
            scratch.replace(self._path)
            os.fsync(self._folder)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise

    def _set_aside(self, damaged: bytes) -> None:
        """Keep damaged lines for whoever wants to look at them, the first megabyte of all."""
        if not damaged:
            return
        with _open_for_writing(self._path.with_name(DAMAGED_FILE), os.O_APPEND) as aside:
            aside.write(damaged[: max(0, _DAMAGED_BYTES_MAX - os.fstat(aside.fileno()).st_size)])
            aside.flush()
            os.fsync(aside.fileno())

    def _scan(self) -> Iterator[tuple[bytes, JournalEntry | None]]:
        """Give every line with its entry, None if it is damaged; one too long comes in pieces."""
        with self._path.open("rb") as file:
            while piece := file.readline(_LINE_BYTES_MAX):
                line = piece.removesuffix(b"\n")
                if line:
                    yield line, _decode(line)

    def _current_file(self) -> int:
        """Return the open file; opened anew if it was replaced or removed."""
        if self._file is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), os.fstat(self._file)):
                    return self._file
            os.close(self._file)
            self._file = None
        is_new = not self._path.exists()
        self._file = os.open(self._path, _FLAGS | os.O_RDWR | os.O_APPEND, 0o600)
        os.fchmod(self._file, 0o600)
        if is_new:
            os.fsync(self._folder)
        self._known_size = self._known_count = 0
        return self._file

    def _lay_in_ballast(self) -> None:
        """Hold some room on the disk, if it has any. The bytes are random: none compresses them."""
        path = self._ballast_path
        try:
            if path.exists() and path.stat().st_size == BALLAST_BYTES:
                return
            with _open_for_writing(path, os.O_TRUNC) as ballast:
                ballast.write(secrets.token_bytes(BALLAST_BYTES))
                ballast.flush()
                os.fsync(ballast.fileno())
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _drop_ballast(self) -> bool:
        """Give the room up; False if there was none."""
        try:
            self._ballast_path.unlink()
            os.fsync(self._folder)  # some file systems free no block before
        except OSError:
            return False
        return True

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep other threads, and other processes on this folder, out."""
        with self._lock:
            if self._is_closed:
                raise StorageUnavailable("The outcome journal is closed.")
            fcntl.flock(self._folder, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._folder, fcntl.LOCK_UN)

    def _close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._folder)
            if self._file is not None:
                os.close(self._file)


class _Job:
    """One line to write, and what came of it."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.is_done = False
        self.error: OSError | StorageUnavailable | None = None


def _encode(entry: JournalEntry) -> bytes:
    """Return the line of an entry, long words of errors cut off."""
    if entry.event not in JOURNALLED:
        raise ValueError(f"{entry.event} is no outcome of a submit")
    error = entry.error and {
        "code": entry.error.code[:_TEXT_CHARS_MAX],
        "message": entry.error.message[:_TEXT_CHARS_MAX],
    }
    fields = {
        "v": _VERSION,
        "task_id": entry.task_id,
        "event": entry.event.value,
        "upstream_task_id": entry.upstream_task_id,
        "upstream_request_id": entry.upstream_request_id,
        "error": error,
        "at_ms": entry.at_ms,
    }
    content = json.dumps(fields, separators=(",", ":")).encode()
    line = content[:-1] + b',"crc":"%08x"}' % zlib.crc32(content)
    if len(line) >= _LINE_BYTES_MAX:
        raise ValueError("the entry is too long for the journal")
    return line


def _decode(line: bytes) -> JournalEntry | None:
    """Return the entry of a line; None unless `_encode` wrote exactly this."""
    checksum = _CHECKSUM.search(line)
    if checksum is None:
        return None
    content = line[: checksum.start()] + b"}"
    if zlib.crc32(content) != int(checksum[1], 16):
        return None
    try:
        fields = json.loads(content)
        error = fields["error"]
        entry = JournalEntry(
            task_id=fields["task_id"],
            event=Event(fields["event"]),
            at_ms=fields["at_ms"],
            upstream_task_id=fields["upstream_task_id"],
            upstream_request_id=fields["upstream_request_id"],
            error=error and TaskError(error["code"], error["message"]),
        )
        return entry if _encode(entry) == line else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _open_for_writing(path: Path, flags: int) -> BinaryIO:
    """Open a file for its owner alone; a link in its place is not followed."""
    return os.fdopen(os.open(path, _FLAGS | os.O_WRONLY | flags, 0o600), "wb")


def _write_durably(file: int, content: bytes) -> None:
    """Append all of `content` and sync it; a part that could be written is taken back."""
    size = os.fstat(file).st_size
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, size)
        raise
    # Where this fails the line stays: it may be on disk all the same, and twice does no harm.
    os.fsync(file)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Turn an error of the system into ours."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"The outcome journal can't be {what}: {error.strerror}."
        ) from error
