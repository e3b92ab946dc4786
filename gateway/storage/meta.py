"""Facts about the database itself, by name."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import sqlalchemy as sa

from gateway.storage import keys
from gateway.storage.schema import meta

_PEPPER_CHECK: Final = "pepper_check"
_PEPPER_COPY_CHECK: Final = "pepper_copy_check"
_RESTORED: Final = "restored_at_ms"
_BOOK_TERMS: Final = "book_terms"
_ACCOUNTS: Final = "account:"


class AccountFact(StrEnum):
    """What is noted of an upstream account."""

    AUDITED_AT_MS = "audited_at_ms"  # when its whole list was last compared with the tasks
    DEDICATED_SINCE_MS = "dedicated_since_ms"  # since when it is configured to be ours alone
    SHARED_AT_MS = "shared_at_ms"  # when its list last showed that it is not
    FOREIGN_COUNT = "foreign_count"  # how many tasks of others its last audit showed
    PROBE = "probe"  # which markers it gives back
    DOUBTED_MS = "doubted_ms"  # the dates that the clock was set past, or back over
    LOST_MS = "lost_ms"  # the dates between which a restore has lost tasks


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


def find_book_terms(conn: sa.Connection) -> str | None:
    """Return what the books are kept in, as JSON; None if that was never noted."""
    return _find(conn, _BOOK_TERMS)


def put_book_terms(conn: sa.Connection, terms: str) -> None:
    """Note what the books are kept in."""
    _put(conn, _BOOK_TERMS, terms)


def find_of_account(conn: sa.Connection, upstream: str, credential: str) -> Mapping[str, str]:
    """Return the facts that are noted of an upstream account, by name."""
    prefix = _account_name(upstream, credential, "")
    rows = conn.execute(
        sa.select(meta.c.name, meta.c.value).where(
            meta.c.name.in_([prefix + fact.value for fact in AccountFact])
        )
    )
    return {name.removeprefix(prefix): value for name, value in rows}


def note_of_account(
    conn: sa.Connection, upstream: str, credential: str, fact: AccountFact, value: str
) -> None:
    """Note a fact of an upstream account, in place of what was noted before."""
    _put(conn, _account_name(upstream, credential, fact), value)


def forget_of_account(
    conn: sa.Connection, upstream: str, credential: str, fact: AccountFact
) -> None:
    conn.execute(sa.delete(meta).where(meta.c.name == _account_name(upstream, credential, fact)))


def count_foreign(conn: sa.Connection) -> int:
    """Return how many tasks of others the last audits of all accounts showed."""
    rows = conn.execute(
        sa.select(meta.c.name, meta.c.value).where(meta.c.name.startswith(_ACCOUNTS))
    )
    suffix = f":{AccountFact.FOREIGN_COUNT}"
    return sum(int(value) for name, value in rows if name.endswith(suffix))


def take_audit(
    conn: sa.Connection, upstream: str, credential: str, *, now_ms: int, before_ms: int
) -> bool:
    """Whether the account's audit is due, the last one having begun before `before_ms`.

    Then it is the caller's, and no other process gets it. The first one is due an interval after it
    is first asked for.
    """
    name = _account_name(upstream, credential, AccountFact.AUDITED_AT_MS)
    last = _find(conn, name)
    if last is None:
        _put(conn, name, str(now_ms))
        return False
    if before_ms < int(last) <= now_ms:  # a later date is of a clock that went wrong
        return False
    taken = conn.execute(
        sa.update(meta).where(meta.c.name == name, meta.c.value == last).values(value=str(now_ms))
    )
    return taken.rowcount == 1


def _account_name(upstream: str, credential: str, fact: str) -> str:
    # Neither name has a slash or a colon in it.
    return f"{_ACCOUNTS}{upstream}/{credential}:{fact}"


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
