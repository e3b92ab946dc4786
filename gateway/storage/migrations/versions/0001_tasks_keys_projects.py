"""Tasks, keys and projects."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_STATES = (
    "('reserved', 'unknown', 'queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired', "
    "'rejected')"
)
_EVENTS = (
    "('accepted', 'lost', 'refused', 'refused_late', 'started', 'succeeded', 'failed', "
    "'cancelled', 'expired', 'absent', 'vanished')"
)
_APPEND_ONLY = ("task_transitions", "audit_events")


def upgrade() -> None:
    _create_projects_and_keys()
    _create_tasks()
    _create_task_parts()
    _create_audit_events()
    _create_meta()
    _refuse_changes()


def _create_projects_and_keys() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("projects_pkey")),
        sa.UniqueConstraint("name", name=op.f("projects_name_key")),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.Column("expires_at_ms", _INT64),
        sa.Column("revoked_at_ms", _INT64),
        sa.Column("models", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("keys_pkey")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("keys_project_id_fkey")),
        sa.UniqueConstraint("digest", name=op.f("keys_digest_key")),
        sa.CheckConstraint("kind IN ('live', 'test')", name=op.f("keys_kind_check")),
        sqlite_strict=True,
    )


def _create_tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("family", sa.Text, nullable=False),
        sa.Column("service_tier", sa.Text, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", _INT64, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.Column("updated_at_ms", _INT64, nullable=False),
        sa.Column("submit_deadline_at_ms", _INT64, nullable=False),
        sa.Column("expires_at_ms", _INT64, nullable=False),
        sa.Column("upstream_task_id", sa.Text),
        sa.Column("upstream_request_id", sa.Text),
        sa.Column("fields", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("next_poll_at_ms", _INT64),
        sa.Column("poll_count", _INT64, nullable=False),
        sa.Column("missing_count", _INT64, nullable=False),
        sa.Column("missing_since_ms", _INT64),
        sa.Column("deleted_at_ms", _INT64),
        sa.PrimaryKeyConstraint("id", name=op.f("tasks_pkey")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("tasks_project_id_fkey")
        ),
        sa.UniqueConstraint(
            "upstream", "credential", "upstream_task_id", name="tasks_upstream_key"
        ),
        sa.CheckConstraint(f"state IN {_STATES}", name=op.f("tasks_state_check")),
        sa.CheckConstraint("version >= 1", name=op.f("tasks_version_check")),
        sa.CheckConstraint(
            "state NOT IN ('queued', 'running') OR upstream_task_id IS NOT NULL",
            name=op.f("tasks_observed_check"),
        ),
        sqlite_strict=True,
    )
    op.create_index("tasks_project_idx", "tasks", ["project_id", "created_at_ms", "id"])
    op.create_index("tasks_state_idx", "tasks", ["state", "submit_deadline_at_ms"])
    _create_partial_index(
        "tasks_due_idx", "tasks", ["upstream", "credential", "next_poll_at_ms"], "next_poll_at_ms"
    )


def _create_task_parts() -> None:
    op.create_table(
        "task_requests",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("expires_at_ms", _INT64),
        sa.PrimaryKeyConstraint("task_id", name=op.f("task_requests_pkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("task_requests_task_id_fkey")),
        sqlite_strict=True,
    )
    _create_partial_index(
        "task_requests_expiry_idx", "task_requests", ["expires_at_ms"], "expires_at_ms"
    )
    op.create_table(
        "task_transitions",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("version", _INT64, nullable=False, autoincrement=False),
        sa.Column("from_state", sa.Text),
        sa.Column("to_state", sa.Text, nullable=False),
        sa.Column("event", sa.Text),
        sa.Column("at_ms", _INT64, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "version", name=op.f("task_transitions_pkey")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("task_transitions_task_id_fkey")
        ),
        sa.CheckConstraint(
            f"from_state IN {_STATES}", name=op.f("task_transitions_from_state_check")
        ),
        sa.CheckConstraint(f"to_state IN {_STATES}", name=op.f("task_transitions_to_state_check")),
        sa.CheckConstraint(f"event IN {_EVENTS}", name=op.f("task_transitions_event_check")),
        sa.CheckConstraint(
            "(version = 1) = (from_state IS NULL) AND (version = 1) = (event IS NULL)",
            name=op.f("task_transitions_admission_check"),
        ),
        sqlite_strict=True,
    )


def _create_audit_events() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("at_ms", _INT64, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_events_pkey")),
        sqlite_strict=True,
    )
    op.create_index("audit_events_at_idx", "audit_events", ["at_ms"])


def _create_meta() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("meta_pkey")),
        sqlite_strict=True,
    )


def _create_partial_index(name: str, table: str, columns: list[str], present: str) -> None:
    where = sa.column(present).is_not(None)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _refuse_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for verb in ("update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
