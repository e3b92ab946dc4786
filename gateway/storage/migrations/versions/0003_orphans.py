"""What orphans cost, and no replacing of rows that are append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_INT64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = {
    "task_transitions": ("task_id", "version"),
    "audit_events": ("id",),
    "ledger_entries": ("task_id", "step"),
}


def upgrade() -> None:
    op.add_column("orphans", sa.Column("model", sa.Text))
    op.add_column("orphans", sa.Column("tokens", _INT64))
    if op.get_bind().dialect.name == "sqlite":
        for table, key in _APPEND_ONLY.items():
            _refuse_replacing(table, " AND ".join(f"{name} = NEW.{name}" for name in key))


def _refuse_replacing(table: str, condition: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {condition}) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )
