"""Keys, without their secrets: what is stored is a digest. Every change writes its audit row."""

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.keys import Key, KeyKind
from gateway.domain.projects import AuditEvent
from gateway.ports import Change, ChangeKind
from gateway.storage import audit, changes
from gateway.storage.schema import keys

# Built once: to build a statement costs more than to run it.
_FIND: Final = sa.select(keys).where(keys.c.id == sa.bindparam("wanted_id"))


def insert(conn: sa.Connection, key: Key, event: AuditEvent) -> bool:
    """Add `key`, whose project exists. False, and nothing is added, if its id is taken."""
    row = {
        "id": key.id,
        "project_id": key.project_id,
        "name": key.name,
        "kind": key.kind,
        "digest": key.digest,
        "created_at_ms": key.created_at_ms,
        "expires_at_ms": key.expires_at_ms,
        "revoked_at_ms": key.revoked_at_ms,
        "models": json.dumps(key.models),
    }
    try:
        with conn.begin_nested():
            conn.execute(sa.insert(keys), row)
    except sa.exc.IntegrityError:
        if find(conn, key.id) is None:
            raise
        return False
    _record(conn, event)
    return True


def find(conn: sa.Connection, key_id: str) -> Key | None:
    """Return the key with this public id, whether valid, expired or revoked."""
    row = conn.execute(_FIND, {"wanted_id": key_id}).one_or_none()
    return None if row is None else _key(row)


def list_keys(conn: sa.Connection, project_id: str | None = None) -> Sequence[Key]:
    """Return every key, or one project's, oldest first."""
    chosen = sa.select(keys).order_by(keys.c.created_at_ms, keys.c.id)
    if project_id is not None:
        chosen = chosen.where(keys.c.project_id == project_id)
    return [_key(row) for row in conn.execute(chosen)]


def count(conn: sa.Connection) -> int:
    """Return how many keys there are, valid or not."""
    return conn.execute(sa.select(sa.func.count()).select_from(keys)).scalar_one()


def count_valid(conn: sa.Connection, now_ms: int) -> int:
    """Return how many keys are neither revoked nor expired."""
    is_alive = sa.or_(keys.c.expires_at_ms.is_(None), keys.c.expires_at_ms > now_ms)
    return conn.execute(
        sa.select(sa.func.count()).select_from(keys).where(keys.c.revoked_at_ms.is_(None), is_alive)
    ).scalar_one()


def revoke(conn: sa.Connection, key_id: str, at_ms: int, event: AuditEvent) -> bool:
    """Revoke the key as of `at_ms`. False if there is none, or it was revoked before."""
    return _change(
        conn,
        sa.update(keys)
        .where(keys.c.id == key_id, keys.c.revoked_at_ms.is_(None))
        .values(revoked_at_ms=at_ms),
        event,
    )


def set_expiry(
    conn: sa.Connection, key_id: str, expires_at_ms: int | None, event: AuditEvent
) -> bool:
    """Let the key expire at this time, or never. False if there is none, or it is revoked."""
    return _change(
        conn,
        sa.update(keys)
        .where(keys.c.id == key_id, keys.c.revoked_at_ms.is_(None))
        .values(expires_at_ms=expires_at_ms),
        event,
    )


def replace(
    conn: sa.Connection, old_id: str, ends_at_ms: int, new: Key, events: Sequence[AuditEvent]
) -> bool:
    """Add `new` and let the old key end, both or neither. False if the old one can't be changed."""
    ended = conn.execute(
        sa.update(keys)
        .where(keys.c.id == old_id, keys.c.revoked_at_ms.is_(None))
        .values(expires_at_ms=ends_at_ms)
    )
    if ended.rowcount == 0 or not insert(conn, new, events[0]):
        return False
    for event in events[1:]:
        audit.add(conn, event)
    return True


def _change(conn: sa.Connection, statement: sa.Update, event: AuditEvent) -> bool:
    if conn.execute(statement).rowcount == 0:
        return False
    _record(conn, event)
    return True


def _record(conn: sa.Connection, event: AuditEvent) -> None:
    audit.add(conn, event)
    changes.emit(conn, Change(ChangeKind.KEYS))


def _key(row: sa.Row[Any]) -> Key:
    return Key(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        kind=KeyKind(row.kind),
        digest=row.digest,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        models=tuple(json.loads(row.models)),
    )
