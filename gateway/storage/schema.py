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

from gateway.domain.billing import EntryKind, EvidenceKind, Outcome
from gateway.domain.keys import KeyKind
from gateway.domain.limits import Metric, Scope, Window
from gateway.domain.tasks import Event, TaskState

REVISIONS: Final = ("0001", "0002", "0003")
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
    Column("bill", Text),
    Column("called_back_at_ms", _Int64),
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

attempts: Final = _table(
    "attempts",
    Column("task_id", Text, ForeignKey("tasks.id"), primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    # The process that sends it, and the one whose client waits for the answer.
    Column("owner", Text, nullable=False),
    Column("client_owner", Text, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
    Column("shape", Text, nullable=False),
    Column("markers", Text, nullable=False),
    Column("callback_token", Text),
    Column("claimed_task_id", Text),
    Column("callback_url", Text),
    Column("has_client_left", _Int64, nullable=False),
    Column("is_answered", _Int64, nullable=False),
    Column("is_id_given", _Int64, nullable=False),
    Column("probe_count", _Int64, nullable=False),
    Column("pass_count", _Int64, nullable=False),
    Column("next_probe_at_ms", _Int64),
    UniqueConstraint("callback_token"),
)
# Once its answer was delivered an attempt is never joined, so this index holds the others only.
Index(
    "attempts_joinable_idx",
    attempts.c.key_id,
    attempts.c.fingerprint,
    sqlite_where=attempts.c.is_answered == 0,
    postgresql_where=attempts.c.is_answered == 0,
)

# What a callback claims is kept until the task's outcome is known, so these are few.
Index(
    "attempts_claims_idx",
    attempts.c.task_id,
    sqlite_where=attempts.c.claimed_task_id.is_not(None),
    postgresql_where=attempts.c.claimed_task_id.is_not(None),
)

idempotency_keys: Final = _table(
    "idempotency_keys",
    Column("project_id", Text, ForeignKey("projects.id"), primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    # Without a reference: the key is claimed before its task is there.
    Column("task_id", Text, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
)
Index("idempotency_keys_task_idx", idempotency_keys.c.task_id)
Index("idempotency_keys_age_idx", idempotency_keys.c.created_at_ms)

reservations: Final = _table(
    "reservations",
    Column("task_id", Text, ForeignKey("tasks.id"), primary_key=True),
    Column("project_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("at_ms", _Int64, nullable=False),
    Column("day_start_ms", _Int64, nullable=False),
    Column("month_start_ms", _Int64, nullable=False),
    Column("price", Text, nullable=False),
    Column("hold_micros", _Int64, nullable=False),
    Column("held_tokens", _Int64, nullable=False),
    Column("held_seconds", _Int64, nullable=False),
    Column("held_videos", _Int64, nullable=False),
    Column("held_tool_calls", _Int64, nullable=False),
    Column("outcome", Text),
    Column("resolved_at_ms", _Int64),
    Column("charge_micros", _Int64),
    Column("cost_micros", _Int64),
    Column("tokens", _Int64),
    Column("seconds", _Int64),
    Column("videos", _Int64),
    Column("is_estimated", _Int64),
    _one_of("outcome", Outcome),
    CheckConstraint("hold_micros >= 0", name="hold"),
    # What a resolution says comes all at once or not at all.
    CheckConstraint(
        "(outcome IS NULL) = (resolved_at_ms IS NULL) AND (outcome IS NULL) = (charge_micros IS "
        "NULL) AND (outcome IS NULL) = (cost_micros IS NULL) AND (outcome IS NULL) = (tokens IS "
        "NULL) AND (outcome IS NULL) = (seconds IS NULL) AND (outcome IS NULL) = (videos IS NULL) "
        "AND (outcome IS NULL) = (is_estimated IS NULL)",
        name="resolution",
    ),
)
Index(
    "reservations_open_idx",
    reservations.c.at_ms,
    sqlite_where=reservations.c.outcome.is_(None),
    postgresql_where=reservations.c.outcome.is_(None),
)
# In the order in which reports page through them.
Index("reservations_at_idx", reservations.c.at_ms, reservations.c.task_id)
Index("reservations_resolved_idx", reservations.c.resolved_at_ms)

ledger_entries: Final = _table(
    "ledger_entries",
    # The key makes it exactly once: a task has one hold and one resolution at most, and a loss for
    # each upstream task that nobody else bears.
    Column("task_id", Text, ForeignKey("tasks.id"), primary_key=True),
    Column("step", _Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("at_ms", _Int64, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("day_start_ms", _Int64, nullable=False),
    Column("month_start_ms", _Int64, nullable=False),
    Column("currency", Text, nullable=False),
    Column("held_micros", _Int64, nullable=False),
    Column("held_tokens", _Int64, nullable=False),
    Column("held_seconds", _Int64, nullable=False),
    Column("held_videos", _Int64, nullable=False),
    Column("spent_micros", _Int64, nullable=False),
    Column("spent_tokens", _Int64, nullable=False),
    Column("spent_seconds", _Int64, nullable=False),
    Column("spent_videos", _Int64, nullable=False),
    Column("cost_currency", Text, nullable=False),
    Column("cost_micros", _Int64, nullable=False),
    Column("price_version", Text, nullable=False),
    Column("is_estimated", _Int64, nullable=False),
    Column("evidence", Text),
    Column("evidence_detail", Text, nullable=False),
    _one_of("kind", EntryKind),
    _one_of("evidence", EvidenceKind),
    CheckConstraint(
        "(kind = 'hold' AND step = 1) OR (kind IN ('settle', 'release') AND step = 2) OR "
        "(kind = 'loss' AND step >= 3)",
        name="step",
    ),
    # Money is let go of by evidence alone.
    CheckConstraint("(kind = 'hold') = (evidence IS NULL)", name="proved"),
)
Index(
    "ledger_entries_at_idx", ledger_entries.c.at_ms, ledger_entries.c.task_id, ledger_entries.c.step
)

balances: Final = _table(
    "balances",
    Column("scope", Text, primary_key=True),
    Column("scope_id", Text, primary_key=True),
    Column("span", Text, primary_key=True),
    Column("start_ms", _Int64, primary_key=True, autoincrement=False),
    Column("held_micros", _Int64, nullable=False),
    Column("held_tokens", _Int64, nullable=False),
    Column("held_seconds", _Int64, nullable=False),
    Column("held_videos", _Int64, nullable=False),
    Column("spent_micros", _Int64, nullable=False),
    Column("spent_tokens", _Int64, nullable=False),
    Column("spent_seconds", _Int64, nullable=False),
    Column("spent_videos", _Int64, nullable=False),
    Column("tasks_count", _Int64, nullable=False),
    _one_of("scope", Scope),
    _one_of("span", Window),
)

limits: Final = _table(
    "limits",
    Column("scope", Text, primary_key=True),
    Column("scope_id", Text, primary_key=True),
    Column("metric", Text, primary_key=True),
    # Empty for what has no window.
    Column("span", Text, primary_key=True),
    # NULL lifts the limit that configuration would set.
    Column("cap", _Int64),
    Column("updated_at_ms", _Int64, nullable=False),
    _one_of("scope", Scope),
    _one_of("metric", Metric),
    CheckConstraint(
        "(metric IN ('tasks', 'rpm')) = (span = '') AND span IN ('', 'day', 'month', 'ever')",
        name="span",
    ),
    CheckConstraint("cap >= 0", name="cap"),
)

notifications: Final = _table(
    "notifications",
    Column("id", Text, primary_key=True),
    Column("task_id", Text, ForeignKey("tasks.id"), nullable=False),
    Column("kind", Text, nullable=False),
    # Whose turn it is, see gateway/places.py.
    Column("receiver", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at_ms", _Int64, nullable=False),
    Column("attempt_count", _Int64, nullable=False),
    Column("next_attempt_at_ms", _Int64),
    Column("ended_at_ms", _Int64),
    Column("last_status", _Int64),
    Column("last_error", Text),
    CheckConstraint("kind IN ('callback', 'usage')", name="kind"),
    CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state"),
    # What is pending has a next attempt, what is not has an end: nothing is ever forgotten between.
    CheckConstraint(
        "(state = 'pending') = (next_attempt_at_ms IS NOT NULL) AND "
        "(state = 'pending') = (ended_at_ms IS NULL)",
        name="progress",
    ),
)
Index("notifications_task_idx", notifications.c.task_id)
Index("notifications_state_idx", notifications.c.state, notifications.c.created_at_ms)
Index(
    "notifications_due_idx",
    notifications.c.kind,
    notifications.c.receiver,
    notifications.c.next_attempt_at_ms,
    sqlite_where=notifications.c.next_attempt_at_ms.is_not(None),
    postgresql_where=notifications.c.next_attempt_at_ms.is_not(None),
)
Index(
    "notifications_ended_idx",
    notifications.c.ended_at_ms,
    sqlite_where=notifications.c.ended_at_ms.is_not(None),
    postgresql_where=notifications.c.ended_at_ms.is_not(None),
)

orphans: Final = _table(
    "orphans",
    Column("upstream", Text, primary_key=True),
    Column("credential", Text, primary_key=True),
    Column("upstream_task_id", Text, primary_key=True),
    # The task that it is believed to have come of, after that was given up.
    Column("task_id", Text, ForeignKey("tasks.id")),
    Column("found_at_ms", _Int64, nullable=False),
    Column("created_at_ms", _Int64),
    Column("status", Text, nullable=False),
    Column("is_proved", _Int64, nullable=False),
    # The entry of that task which bears what it costs.
    Column("entry_step", _Int64),
    # As the upstream told them last.
    Column("model", Text),
    Column("tokens", _Int64),
)

processes: Final = _table(
    "processes",
    Column("id", Text, primary_key=True),
    Column("seen_at_ms", _Int64, nullable=False),
)

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

_APPEND_ONLY: Final = (task_transitions, audit_events, ledger_entries)


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
            *(
                f"CREATE TRIGGER {table.name}_no_{verb} BEFORE {verb.upper()} ON {table.name} "
                f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
                for table in _APPEND_ONLY
                for verb in ("update", "delete")
            ),
            *(_refuse_replacing(table) for table in _APPEND_ONLY),
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


def _refuse_replacing(table: Table) -> str:
    """Return a trigger of SQLite against INSERT OR REPLACE, which asks no other one."""
    same = " AND ".join(f"{column.name} = NEW.{column.name}" for column in table.primary_key)
    return (
        f"CREATE TRIGGER {table.name}_no_replace BEFORE INSERT ON {table.name} "  # noqa: S608
        f"WHEN EXISTS (SELECT 1 FROM {table.name} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, '{table.name} is append-only'); END"
    )
