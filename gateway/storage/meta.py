"""Facts about the database itself, by name."""

from typing import Final

import sqlalchemy as sa

from gateway.storage import keys
from gateway.storage.schema import meta

_PEPPER_CHECK: Final = "pepper_check"
_PEPPER_COPY_CHECK: Final = "pepper_copy_check"
_RESTORED: Final = "restored_at_ms"


def is_pepper(conn: sa.Connection, check: str, now_ms: int) -> bool:
    """Whether the pepper with this check may be used: no key that works was made with another."""
    stored = _find(conn, _PEPPER_CHECK)
    return stored in {None, check} or keys.count_valid(conn, now_ms) == 0


def adopt_pepper(conn: sa.Connection, check: str, now_ms: int) -> bool:
    """Note the pepper of the keys from now on. False, and nothing is noted, if it may not be."""
    if not is_pepper(conn, check, now_ms):
        return False
    if _find(conn, _PEPPER_CHECK) == check:
        return True
    return _put(conn, _PEPPER_CHECK, check)


def has_pepper_copy(conn: sa.Connection, check: str) -> bool:
    """Whether an operator has said that a copy of the pepper with this check is kept apart."""
    return _find(conn, _PEPPER_COPY_CHECK) == check


def note_pepper_copy(conn: sa.Connection, check: str) -> None:
    """Note that a copy of the pepper with this check is kept apart from the database."""
    _put(conn, _PEPPER_COPY_CHECK, check)


def set_restored(conn: sa.Connection, at_ms: int) -> None:
    """Note that this database was restored, so that it may lack what happened before `at_ms`."""
    _put(conn, _RESTORED, str(at_ms))


def find_restored(conn: sa.Connection) -> int | None:
    """Return when the database was restored; None if what was lost by it has been looked for."""
    value = _find(conn, _RESTORED)
    return None if value is None else int(value)


def clear_restored(conn: sa.Connection, at_ms: int) -> bool:
    """Note that what the restore of `at_ms` lost was looked for. False if there was another."""
    deleted = conn.execute(
        sa.delete(meta).where(meta.c.name == _RESTORED, meta.c.value == str(at_ms))
    )
    return deleted.rowcount == 1


def _put(conn: sa.Connection, name: str, value: str) -> bool:
    """Store `value`. False if another process stored another one at the same time."""
    changed = conn.execute(sa.update(meta).where(meta.c.name == name).values(value=value))
    if changed.rowcount == 0:
        try:
            with conn.begin_nested():
                conn.execute(sa.insert(meta), {"name": name, "value": value})
        except sa.exc.IntegrityError:  # another process was first
            return _find(conn, name) == value
    return True


def _find(conn: sa.Connection, name: str) -> str | None:
    return conn.execute(sa.select(meta.c.value).where(meta.c.name == name)).scalar_one_or_none()
