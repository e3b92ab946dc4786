"""Each test of a store runs on SQLite and on PostgreSQL; both are real."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.config import StorageConfig
from gateway.ports import Database
from gateway.storage import migrate, projects
from gateway.storage.postgres import open_postgres
from gateway.storage.sqlite import open_sqlite
from tests.support.stored import a_project, an_event


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is; opened twice, it is what two processes see."""

    config: StorageConfig
    path: Path

    async def open(self) -> Database:
        await migrate.upgrade(self.config, self.path)
        if self.config.url is not None:
            return await open_postgres(self.config)
        return await open_sqlite(self.path, self.config)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Place:
    return Place(StorageConfig(), tmp_path / "data" / "gateway.db")


@pytest.fixture
def postgres_place(postgres_url: str, tmp_path: Path) -> Place:
    return Place(StorageConfig(url=SecretStr(postgres_url)), tmp_path / "unused")


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


@pytest.fixture
async def database(place: Place) -> AsyncIterator[Database]:
    """A database with the projects `default` and `other`."""
    opened = await place.open()
    for name in ("default", "other"):
        await opened.write(projects.insert, a_project(name), an_event(name))
    yield opened
    await opened.close()
