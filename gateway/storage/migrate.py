"""Migrating on request, as the command line does, whichever database is configured."""

from pathlib import Path

from gateway.config import StorageConfig
from gateway.storage import postgres, schema, sqlite


def head_revision() -> str:
    """Return the revision of the newest schema that this release knows."""
    return schema.REVISIONS[-1]


async def current_revision(config: StorageConfig, path: Path) -> str | None:
    """Return the revision of the database at `config.url`, else of the SQLite file at `path`.

    None if there is no schema yet. Raises: ConfigurationError for a newer schema,
    StorageUnavailable if there is no reaching the database.
    """
    if config.url is not None:
        return await postgres.current_revision(config)
    return await sqlite.current_revision(path, config)


async def upgrade(config: StorageConfig, path: Path) -> None:
    """Bring the same database's schema to the head revision; harmless if it is there already."""
    if config.url is not None:
        await postgres.upgrade(config)
    else:
        await sqlite.upgrade(path, config)
