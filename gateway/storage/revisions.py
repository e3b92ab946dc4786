"""The schema's revision: reading it, and bringing a database up to ours inside one transaction.

Everything here works on an open connection and commits nothing. Alembic is loaded only where an
older schema must be migrated: a fresh database is made straight from `schema.py`.
"""

from pathlib import Path

import sqlalchemy as sa

from gateway.errors import ConfigurationError
from gateway.storage import schema

MIGRATIONS = Path(__file__).parent / "migrations"


def read(conn: sa.Connection) -> str | None:
    """Return the revision of the database's schema, None if it has none of ours.

    Raises: ConfigurationError for a revision that this release does not know.
    """
    if not sa.inspect(conn).has_table(schema.alembic_version.name):
        return None
    revision = conn.execute(sa.select(schema.alembic_version.c.version_num)).scalar_one_or_none()
    if revision is not None and revision not in schema.REVISIONS:
        raise ConfigurationError(
            f"The database has schema revision {revision!r}, newer than any that this release knows"
            f" ({schema.REVISIONS[-1]!r} at most): start the release that migrated it."
        )
    return revision


def bring_up_to_date(conn: sa.Connection) -> None:
    """Make or migrate the schema, so that it is the newest we know.

    Raises: ConfigurationError for a newer schema.
    """
    revision = read(conn)
    if revision is None:
        schema.create(conn)
    elif revision != schema.REVISIONS[-1]:
        migrate(conn)


def migrate(conn: sa.Connection) -> None:
    """Run every migration that the database has not seen."""
    # Loading Alembic costs more than all of a start without it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": conn})
    # A percent sign in the path would be taken as the start of a substitution.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, "head")
