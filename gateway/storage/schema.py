"""The tables: one MetaData for both databases.

Times are UTC epoch milliseconds, JSON is text, closed sets are text with a CHECK of the domain's
words. On SQLite every table is STRICT: without that an integer that overflows silently turns into a
float. `create` makes the newest schema in an empty database; the migrations end at the same one,
which a test compares piece by piece.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    column,
    insert,
)
from sqlalchemy.schema import SchemaItem

from gateway.domain.keys import KeyKind
from gateway.domain.tasks import Event, TaskState

REVISIONS: Final = ("0001",)
"""Every revision of the schema, oldest first. Kept here so that a start needs no Alembic."""

metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    }
)

_Int64: Final = BigInteger().with_variant(Integer(), "sqlite")


def _table(name: str, *items: SchemaItem) -> Table:
    return Table(name, metadata, *items, sqlite_strict=True)


def _one_of(name: str, words: type[StrEnum]) -> CheckConstraint:
    """Return a CHECK that the column, unless it is NULL, holds one of `words`."""
    return CheckConstraint(column(name, Text).in_([word.value for word in words]), name=name)


projects: Final = _table(
    "projects",
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
    UniqueConstraint("name"),
)

keys: Final = _table(
    "keys",
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
    Column("expires_at_ms", _Int64),
    Column("revoked_at_ms", _Int64),
    Column("models", Text, nullable=False),
    UniqueConstraint("digest"),
    _one_of("kind", KeyKind),
)

tasks: Final = _table(
    "tasks",
    Column("id", Text, primary_key=True),
    Column("project_id", Text, ForeignKey("projects.id"), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("family", Text, nullable=False),
    Column("service_tier", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", _Int64, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
    Column("updated_at_ms", _Int64, nullable=False),
    Column("submit_deadline_at_ms", _Int64, nullable=False),
    Column("expires_at_ms", _Int64, nullable=False),
    Column("upstream_task_id", Text),
    Column("upstream_request_id", Text),
    Column("fields", Text),
    Column("error", Text),
    Column("next_poll_at_ms", _Int64),
    Column("poll_count", _Int64, nullable=False),
    Column("missing_count", _Int64, nullable=False),
    Column("missing_since_ms", _Int64),
    Column("deleted_at_ms", _Int64),
    _one_of("state", TaskState),
    CheckConstraint("version >= 1", name="version"),
    # Nobody could ask after a task that is said to run under no id.
    CheckConstraint(
        "state NOT IN ('queued', 'running') OR upstream_task_id IS NOT NULL", name="observed"
    ),
    UniqueConstraint("upstream", "credential", "upstream_task_id", name="tasks_upstream_key"),
)
Index("tasks_project_idx", tasks.c.project_id, tasks.c.created_at_ms, tasks.c.id)
Index("tasks_state_idx", tasks.c.state, tasks.c.submit_deadline_at_ms)
# A task that has ended has no next poll, so this index holds the live ones only.
Index(
    "tasks_due_idx",
    tasks.c.upstream,
    tasks.c.credential,
    tasks.c.next_poll_at_ms,
    sqlite_where=tasks.c.next_poll_at_ms.is_not(None),
    postgresql_where=tasks.c.next_poll_at_ms.is_not(None),
)

task_requests: Final = _table(
    "task_requests",
    Column("task_id", Text, ForeignKey("tasks.id"), primary_key=True),
    Column("body", Text, nullable=False),
    Column("expires_at_ms", _Int64),
)
Index(
    "task_requests_expiry_idx",
    task_requests.c.expires_at_ms,
    sqlite_where=task_requests.c.expires_at_ms.is_not(None),
    postgresql_where=task_requests.c.expires_at_ms.is_not(None),
)

task_transitions: Final = _table(
    "task_transitions",
    Column("task_id", Text, ForeignKey("tasks.id"), primary_key=True),
    Column("version", _Int64, primary_key=True, autoincrement=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("event", Text),
    Column("at_ms", _Int64, nullable=False),
    _one_of("from_state", TaskState),
    _one_of("to_state", TaskState),
    _one_of("event", Event),
    # Admission, version 1, comes from no state by no event; every later row has both.
    CheckConstraint(
        "(version = 1) = (from_state IS NULL) AND (version = 1) = (event IS NULL)",
        name="admission",
    ),
)

audit_events: Final = _table(
    "audit_events",
    Column("id", Text, primary_key=True),
    Column("at_ms", _Int64, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
)
Index("audit_events_at_idx", audit_events.c.at_ms)

meta: Final = _table(
    "meta",
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Alembic keeps the revision in this table, and would call it foreign if it were in `metadata`.
alembic_version: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)

_APPEND_ONLY: Final = (task_transitions, audit_events)


def create(conn: Connection) -> None:
    """Make the newest schema in an empty database and note its revision."""
    metadata.create_all(conn, checkfirst=False)
    for statement in _append_only_ddl(conn.dialect.name):
        conn.exec_driver_sql(statement)
    alembic_version.create(conn, checkfirst=False)
    conn.execute(insert(alembic_version), {"version_num": REVISIONS[-1]})


def _append_only_ddl(dialect: str) -> Sequence[str]:
    """Return the triggers by which the append-only tables refuse every change of a row."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table.name}_no_{verb} BEFORE {verb.upper()} ON {table.name} "
            f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
            for table in _APPEND_ONLY
            for verb in ("update", "delete")
        ]
    refuse = (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    return [
        refuse,
        *(
            f"CREATE TRIGGER {table.name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            f"ON {table.name} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            for table in _APPEND_ONLY
        ),
    ]
