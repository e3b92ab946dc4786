"""The money: attempts, holds, the ledger, balances, limits, notifications, what nobody knows of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("bill", sa.Text))
    op.add_column("tasks", sa.Column("called_back_at_ms", _INT64))
    _create_attempts()
    _create_idempotency_keys()
    _create_reservations()
    _create_ledger_entries()
    _create_balances()
    _create_limits()
    _create_notifications()
    _create_orphans()
    _create_processes()
    _refuse_changes("ledger_entries")


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("client_owner", sa.Text, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("markers", sa.Text, nullable=False),
        sa.Column("callback_token", sa.Text),
        sa.Column("claimed_task_id", sa.Text),
        sa.Column("callback_url", sa.Text),
        sa.Column("has_client_left", _INT64, nullable=False),
        sa.Column("is_answered", _INT64, nullable=False),
        sa.Column("is_id_given", _INT64, nullable=False),
        sa.Column("probe_count", _INT64, nullable=False),
        sa.Column("pass_count", _INT64, nullable=False),
        sa.Column("next_probe_at_ms", _INT64),
        sa.PrimaryKeyConstraint("task_id", name=op.f("attempts_pkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("attempts_task_id_fkey")),
        sa.UniqueConstraint("callback_token", name=op.f("attempts_callback_token_key")),
        sqlite_strict=True,
    )
    _create_partial_index(
        "attempts_claims_idx", "attempts", ["task_id"], "claimed_task_id IS NOT NULL"
    )
    _create_partial_index(
        "attempts_joinable_idx", "attempts", ["key_id", "fingerprint"], "is_answered = 0"
    )


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "route", "key", name=op.f("idempotency_keys_pkey")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("idempotency_keys_project_id_fkey")
        ),
        sqlite_strict=True,
    )
    op.create_index("idempotency_keys_age_idx", "idempotency_keys", ["created_at_ms"])
    op.create_index("idempotency_keys_task_idx", "idempotency_keys", ["task_id"])


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("at_ms", _INT64, nullable=False),
        sa.Column("day_start_ms", _INT64, nullable=False),
        sa.Column("month_start_ms", _INT64, nullable=False),
        sa.Column("price", sa.Text, nullable=False),
        sa.Column("hold_micros", _INT64, nullable=False),
        sa.Column("held_tokens", _INT64, nullable=False),
        sa.Column("held_seconds", _INT64, nullable=False),
        sa.Column("held_videos", _INT64, nullable=False),
        sa.Column("held_tool_calls", _INT64, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("resolved_at_ms", _INT64),
        sa.Column("charge_micros", _INT64),
        sa.Column("cost_micros", _INT64),
        sa.Column("tokens", _INT64),
        sa.Column("seconds", _INT64),
        sa.Column("videos", _INT64),
        sa.Column("is_estimated", _INT64),
        sa.PrimaryKeyConstraint("task_id", name=op.f("reservations_pkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("reservations_task_id_fkey")),
        sa.CheckConstraint("hold_micros >= 0", name=op.f("reservations_hold_check")),
        sa.CheckConstraint(
            "outcome IN ('settled', 'released')", name=op.f("reservations_outcome_check")
        ),
        sa.CheckConstraint(
            "(outcome IS NULL) = (resolved_at_ms IS NULL) AND (outcome IS NULL) = "
            "(charge_micros IS NULL) AND (outcome IS NULL) = (cost_micros IS NULL) AND "
            "(outcome IS NULL) = (tokens IS NULL) AND (outcome IS NULL) = (seconds IS NULL) "
            "AND (outcome IS NULL) = (videos IS NULL) AND (outcome IS NULL) = (is_estimated "
            "IS NULL)",
            name=op.f("reservations_resolution_check"),
        ),
        sqlite_strict=True,
    )
    op.create_index("reservations_at_idx", "reservations", ["at_ms", "task_id"])
    _create_partial_index("reservations_open_idx", "reservations", ["at_ms"], "outcome IS NULL")
    op.create_index("reservations_resolved_idx", "reservations", ["resolved_at_ms"])


def _create_ledger_entries() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("step", _INT64, nullable=False, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at_ms", _INT64, nullable=False),
        sa.Column("project_id", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("day_start_ms", _INT64, nullable=False),
        sa.Column("month_start_ms", _INT64, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("held_micros", _INT64, nullable=False),
        sa.Column("held_tokens", _INT64, nullable=False),
        sa.Column("held_seconds", _INT64, nullable=False),
        sa.Column("held_videos", _INT64, nullable=False),
        sa.Column("spent_micros", _INT64, nullable=False),
        sa.Column("spent_tokens", _INT64, nullable=False),
        sa.Column("spent_seconds", _INT64, nullable=False),
        sa.Column("spent_videos", _INT64, nullable=False),
        sa.Column("cost_currency", sa.Text, nullable=False),
        sa.Column("cost_micros", _INT64, nullable=False),
        sa.Column("price_version", sa.Text, nullable=False),
        sa.Column("is_estimated", _INT64, nullable=False),
        sa.Column("evidence", sa.Text),
        sa.Column("evidence_detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("task_id", "step", name=op.f("ledger_entries_pkey")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("ledger_entries_task_id_fkey")
        ),
        sa.CheckConstraint(
            "evidence IN ('rejected', 'not_sent', 'ended', 'cancelled', 'absent', 'disputed',"
            " 'operator', 'policy')",
            name=op.f("ledger_entries_evidence_check"),
        ),
        sa.CheckConstraint(
            "kind IN ('hold', 'settle', 'release', 'loss')", name=op.f("ledger_entries_kind_check")
        ),
        sa.CheckConstraint(
            "(kind = 'hold') = (evidence IS NULL)", name=op.f("ledger_entries_proved_check")
        ),
        sa.CheckConstraint(
            "(kind = 'hold' AND step = 1) OR (kind IN ('settle', 'release') AND step = 2) OR "
            "(kind = 'loss' AND step >= 3)",
            name=op.f("ledger_entries_step_check"),
        ),
        sqlite_strict=True,
    )
    op.create_index("ledger_entries_at_idx", "ledger_entries", ["at_ms", "task_id", "step"])


def _create_balances() -> None:
    op.create_table(
        "balances",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("span", sa.Text, nullable=False),
        sa.Column("start_ms", _INT64, nullable=False, autoincrement=False),
        sa.Column("held_micros", _INT64, nullable=False),
        sa.Column("held_tokens", _INT64, nullable=False),
        sa.Column("held_seconds", _INT64, nullable=False),
        sa.Column("held_videos", _INT64, nullable=False),
        sa.Column("spent_micros", _INT64, nullable=False),
        sa.Column("spent_tokens", _INT64, nullable=False),
        sa.Column("spent_seconds", _INT64, nullable=False),
        sa.Column("spent_videos", _INT64, nullable=False),
        sa.Column("tasks_count", _INT64, nullable=False),
        sa.PrimaryKeyConstraint(
            "scope", "scope_id", "span", "start_ms", name=op.f("balances_pkey")
        ),
        sa.CheckConstraint("scope IN ('org', 'project', 'key')", name=op.f("balances_scope_check")),
        sa.CheckConstraint("span IN ('day', 'month', 'ever')", name=op.f("balances_span_check")),
        sqlite_strict=True,
    )


def _create_limits() -> None:
    op.create_table(
        "limits",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("span", sa.Text, nullable=False),
        sa.Column("cap", _INT64),
        sa.Column("updated_at_ms", _INT64, nullable=False),
        sa.PrimaryKeyConstraint("scope", "scope_id", "metric", "span", name=op.f("limits_pkey")),
        sa.CheckConstraint("cap >= 0", name=op.f("limits_cap_check")),
        sa.CheckConstraint(
            "metric IN ('money', 'videos', 'seconds', 'tokens', 'tasks', 'rpm')",
            name=op.f("limits_metric_check"),
        ),
        sa.CheckConstraint("scope IN ('org', 'project', 'key')", name=op.f("limits_scope_check")),
        sa.CheckConstraint(
            "(metric IN ('tasks', 'rpm')) = (span = '') AND span IN ('', 'day', 'month', 'ever')",
            name=op.f("limits_span_check"),
        ),
        sqlite_strict=True,
    )


def _create_notifications() -> None:
    op.create_table(
        "notifications",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("receiver", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at_ms", _INT64, nullable=False),
        sa.Column("attempt_count", _INT64, nullable=False),
        sa.Column("next_attempt_at_ms", _INT64),
        sa.Column("ended_at_ms", _INT64),
        sa.Column("last_status", _INT64),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("notifications_pkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("notifications_task_id_fkey")),
        sa.CheckConstraint("kind IN ('callback', 'usage')", name=op.f("notifications_kind_check")),
        sa.CheckConstraint(
            "(state = 'pending') = (next_attempt_at_ms IS NOT NULL) AND (state = 'pending') ="
            " (ended_at_ms IS NULL)",
            name=op.f("notifications_progress_check"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'dead')", name=op.f("notifications_state_check")
        ),
        sqlite_strict=True,
    )
    _create_partial_index(
        "notifications_due_idx",
        "notifications",
        ["kind", "receiver", "next_attempt_at_ms"],
        "next_attempt_at_ms IS NOT NULL",
    )
    _create_partial_index(
        "notifications_ended_idx", "notifications", ["ended_at_ms"], "ended_at_ms IS NOT NULL"
    )
    op.create_index("notifications_state_idx", "notifications", ["state", "created_at_ms"])
    op.create_index("notifications_task_idx", "notifications", ["task_id"])


def _create_orphans() -> None:
    op.create_table(
        "orphans",
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("credential", sa.Text, nullable=False),
        sa.Column("upstream_task_id", sa.Text, nullable=False),
        sa.Column("task_id", sa.Text),
        sa.Column("found_at_ms", _INT64, nullable=False),
        sa.Column("created_at_ms", _INT64),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("is_proved", _INT64, nullable=False),
        sa.Column("entry_step", _INT64),
        sa.PrimaryKeyConstraint(
            "upstream", "credential", "upstream_task_id", name=op.f("orphans_pkey")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("orphans_task_id_fkey")),
        sqlite_strict=True,
    )


def _create_processes() -> None:
    op.create_table(
        "processes",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("seen_at_ms", _INT64, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("processes_pkey")),
        sqlite_strict=True,
    )


def _create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def _refuse_changes(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb.upper()} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        return
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
