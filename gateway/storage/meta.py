"""Facts about the database itself, by name."""

from typing import Final

import sqlalchemy as sa

from gateway.storage import keys
from gateway.storage.schema import meta

_PEPPER_CHECK: Final = "pepper_check"


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
    changed = conn.execute(sa.update(meta).where(meta.c.name == _PEPPER_CHECK).values(value=check))
    if changed.rowcount == 0:
        try:
            with conn.begin_nested():
                conn.execute(sa.insert(meta), {"name": _PEPPER_CHECK, "value": check})
        except sa.exc.IntegrityError:  # another process was first
            return _find(conn, _PEPPER_CHECK) == check
    return True


def _find(conn: sa.Connection, name: str) -> str | None:
    return conn.execute(sa.select(meta.c.value).where(meta.c.name == name)).scalar_one_or_none()
