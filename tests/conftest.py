"""Fixtures for every folder: one throw-away PostgreSQL cluster for the whole session."""

from tests.support.postgres import (
    _database_numbers,
    postgres_server,
    postgres_url,
)

__all__ = ["_database_numbers", "postgres_server", "postgres_url"]
