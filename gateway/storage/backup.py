"""Copies of the SQLite database: taken beside a running server, and put back where none runs.

Both go through SQLite's own backup: it reads one state of a database, log and all, and it replaces
a database by one transaction of that database. So a crash leaves the old content or the new one,
no log of the one is ever applied to the other, and whoever has the file open is not deceived.
"""

import errno
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import sqlalchemy as sa

from gateway.domain.projects import AuditEvent
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.storage import audit, meta, revisions

_SIDECARS: Final = ("-wal", "-shm", "-journal")
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_ALL_PAGES: Final = -1  # in one step, which no commit of others makes begin anew


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was checked: whole, and of a schema that this release knows."""

    path: Path
    size_bytes: int
    revision: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did; `kept` is the database that was there before, if there was one."""

    revision: str
    kept: Path | None


def back_up(
    database: Path, target: Path, *, lock_timeout_s: float, replaces: bool = False
) -> Backup:
    """Copy the database to `target`, which appears whole, checked and synced, or not at all.

    Servers and commands may go on writing meanwhile.

    Raises: FileExistsError if `target` is there and not to be replaced, StorageUnavailable if the
    database can't be read or is damaged, ConfigurationError if its schema is not ours.
    """
    if target.exists() and not replaces:
        raise _exists(target)
    with _scratch_file(target) as scratch:
        with _explaining(f"{database} can't be backed up"):
            _copy_to_one_file(database, scratch, lock_timeout_s, mode="rw")
            revision = _check(scratch, database, lock_timeout_s)
        size_bytes = scratch.stat().st_size
        _publish(scratch, target, replaces=replaces)
    return Backup(target, size_bytes, revision)


def restore(
    backup: Path, database: Path, event: AuditEvent, *, stamp: str, lock_timeout_s: float
) -> Restored:
    """Make the content of `backup`, migrated and marked as restored, that of the database.

    The caller makes sure that no server runs. The database that is there is kept beside it under a
    name with `stamp`; a damaged one as it is, with its logs.

    Raises: StorageUnavailable if the backup is damaged or can't be read, or the database is in use;
    ConfigurationError if the backup's schema is not ours, or newer than this release.
    """
    _clean_up(database)
    kept = _choose_name(database, stamp)
    with _scratch_file(database) as scratch:
        with _explaining(f"{backup} can't be restored"):
            _copy_to_one_file(backup, scratch, lock_timeout_s, mode="ro")
            revision = _check(scratch, backup, lock_timeout_s)
            _prepare(scratch, event, lock_timeout_s)
        with _explaining(f"{database} can't be replaced"):
            if _is_sound_or_kept(database, kept, lock_timeout_s):
                _keep(database, kept, lock_timeout_s)
                _copy(scratch, database, lock_timeout_s)
            else:
                _swap_files(scratch, database, kept)
    return Restored(revision, kept if kept.exists() else None)


def mark_restored(conn: sa.Connection, event: AuditEvent) -> None:
    """Note, and record, that the database may lack what happened before this."""
    meta.set_restored(conn, event.at_ms)
    audit.add(conn, event)


def open_restored(conn: sa.Connection, restored_at_ms: int, event: AuditEvent) -> bool:
    """Take that mark away, and record who did. False, and nothing is written, if it is gone."""
    if not meta.clear_restored(conn, restored_at_ms):
        return False
    audit.add(conn, event)
    return True


def _choose_name(database: Path, stamp: str) -> Path:
    """Return the name of what is kept: of the stamp, and of nothing that is there already."""
    name = f"{database.name}.before-restore-{stamp}"
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(path for path in map(database.with_name, names) if not path.exists())


def _prepare(scratch: Path, event: AuditEvent, lock_timeout_s: float) -> None:
    """Bring the copy's schema up to date and mark it, before anything is replaced by it."""
    with _opened(scratch, lock_timeout_s) as conn:
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        revisions.bring_up_to_date(conn)
        mark_restored(conn, event)
        conn.commit()


def _keep(database: Path, kept: Path, lock_timeout_s: float) -> None:
    with _scratch_file(kept) as scratch:
        _copy_to_one_file(database, scratch, lock_timeout_s, mode="rw")
        _publish(scratch, kept, replaces=False)


def _copy_to_one_file(
    source: Path, scratch: Path, lock_timeout_s: float, *, mode: Literal["ro", "rw"]
) -> None:
    """Make `scratch` the same database as `source`, without a log beside it, synced."""
    _copy(source, scratch, lock_timeout_s, mode=mode)
    with _opened(scratch, lock_timeout_s) as conn:
        conn.exec_driver_sql("PRAGMA journal_mode = DELETE")
    _sync(scratch)


def _copy(
    source: Path, target: Path, lock_timeout_s: float, *, mode: Literal["ro", "rw"] = "rw"
) -> None:
    """Give `target`, a database or an empty file, the content of `source`: one transaction."""
    with (
        _opened(source, lock_timeout_s, mode=mode) as read,
        _opened(target, lock_timeout_s) as written,
    ):
        _driver(read).backup(_driver(written), pages=_ALL_PAGES, progress=_refuse_to_wait)


def _refuse_to_wait(status: int, _remaining_count: int, _total_count: int) -> None:
    """End what would otherwise be tried for ever: a copy while another process has the lock."""
    if status & 0xFF in _BUSY:
        raise sqlite3.OperationalError("another process has it in use")


def _check(scratch: Path, origin: Path, lock_timeout_s: float) -> str:
    """Return the revision of the copy of `origin`, if it is whole and of ours."""
    with _opened(scratch, lock_timeout_s) as conn:
        flaw = conn.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        if flaw != "ok":
            raise StorageUnavailable(f"{origin} is damaged: {flaw}.")
        if conn.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
            raise StorageUnavailable(f"{origin} is damaged: it has references to missing rows.")
        revision = revisions.read(conn)
        if revision is None:
            raise ConfigurationError(f"{origin} is no database of a gateway.")
        return revision


def _is_sound_or_kept(database: Path, kept: Path, lock_timeout_s: float) -> bool:
    """Whether the database is sound. If it is not, its logs are beside `kept` afterwards.

    They are put there first: SQLite removes a log that is of no use as soon as it looks at it.
    """
    logs = [Path(f"{kept}{suffix}") for suffix in _SIDECARS if _link(database, kept, suffix)]
    is_sound = True
    try:
        is_sound = _is_sound(database, lock_timeout_s)
    finally:
        if is_sound:  # or busy
            for log in logs:
                log.unlink()
    return is_sound


def _link(database: Path, kept: Path, suffix: str) -> bool:
    """Give one of the database's files a second name; False if there is no such file."""
    try:
        os.link(f"{database}{suffix}", f"{kept}{suffix}")
    except FileNotFoundError:
        return False
    except PermissionError:  # a file system without links
        shutil.copy(f"{database}{suffix}", f"{kept}{suffix}")
    return True


def _is_sound(database: Path, lock_timeout_s: float) -> bool:
    """Whether there is a database that can be read and written as one."""
    if not database.exists():
        return False
    try:
        with _opened(database, lock_timeout_s) as conn:
            return bool(conn.exec_driver_sql("PRAGMA quick_check(1)").scalar_one() == "ok")
    except (sqlite3.Error, sa.exc.DBAPIError) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            return False
        raise


def _swap_files(scratch: Path, database: Path, kept: Path) -> None:
    """Put `scratch` in the place of what is no database any more, or of none.

    The damaged file is there until the new one is, so that no server takes the folder for a new
    one. Its logs must be gone by then: SQLite would apply them to the new one.
    """
    _link(database, kept, "")
    _sync(database.parent)
    _remove_sidecars(database)
    scratch.replace(database)
    _sync(database.parent)


def _publish(scratch: Path, target: Path, *, replaces: bool) -> None:
    """Give `scratch` its name, at once; FileExistsError if it is taken and not to be replaced."""
    if replaces:
        scratch.replace(target)
    else:
        try:
            os.link(scratch, target)  # refused, unlike a rename, if another process was first
        except FileExistsError:
            raise _exists(target) from None
        except OSError:  # a file system without links
            if target.exists():
                raise _exists(target) from None
            scratch.rename(target)
    _sync(target.parent)


@contextmanager
def _scratch_file(target: Path) -> Iterator[Path]:
    """Make an empty file beside `target`, for its owner alone; gone afterwards, if still there."""
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield scratch
    finally:
        _remove_sidecars(scratch)
        scratch.unlink(missing_ok=True)


def _clean_up(database: Path) -> None:
    """Remove what restores that were killed have left."""
    for leftover in database.parent.glob(f".{database.name}.*.partial*"):
        leftover.unlink(missing_ok=True)


def _remove_sidecars(database: Path) -> None:
    for suffix in _SIDECARS:
        Path(f"{database}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, "is there already", str(path))


@contextmanager
def _opened(
    path: Path, lock_timeout_s: float, *, mode: Literal["ro", "rw"] = "rw"
) -> Iterator[sa.Connection]:
    """Open a file that exists, each statement a transaction."""
    engine = sa.create_engine(
        "sqlite+pysqlite://",
        creator=partial(
            sqlite3.connect,
            f"{path.absolute().as_uri()}?mode={mode}",
            timeout=lock_timeout_s,
            isolation_level=None,
            uri=True,
        ),
        poolclass=sa.NullPool,
        hide_parameters=True,
    )
    with engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA synchronous = FULL")
        yield conn


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, sa.exc.DBAPIError) as error:
        # The driver's own words: SQLAlchemy adds an address of its documentation.
        words = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise StorageUnavailable(f"{what}: {words}.") from error


def _driver(conn: sa.Connection) -> sqlite3.Connection:
    driver = conn.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - for the type checker
    return driver
