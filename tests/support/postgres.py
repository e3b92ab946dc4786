"""A throw-away PostgreSQL cluster for the tests, started once per session on a unix socket.

Import `postgres_server` and `postgres_url` into a conftest to use them. Without the server's
binaries the tests that ask for a database are skipped, unless they may be installed: as root with
CI=true or TEST_INSTALL=1.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.installing import install, may_install

_SERVER_USER = "postgres"
# Nothing here must survive a power loss.
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running cluster. Every connection is trusted, whatever its password."""

    folder: Path
    binaries: Path

    def url(self, database: str) -> str:
        return f"postgresql://{_SERVER_USER}:secret@/{database}?host={self.folder}"

    def restart(self) -> None:
        """End the server's processes at once, whatever they do, and start it again."""
        _run(
            self.binaries / "pg_ctl",
            *("-D", str(self.folder / "data"), "restart", "--wait", "--mode", "immediate"),
            *("--log", str(self.folder / "log")),
        )


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_cluster() as server:
        yield server


@pytest.fixture(scope="session")
def _database_numbers() -> Iterator[int]:
    return count(1)


@pytest.fixture
async def postgres_url(
    postgres_server: PostgresServer, _database_numbers: Iterator[int]
) -> AsyncIterator[str]:
    """The URL of a database of this test's own, without any table."""
    name = f"test_{next(_database_numbers)}"
    await _run_as_admin(postgres_server, f"CREATE DATABASE {name}")
    yield postgres_server.url(name)
    await _run_as_admin(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


async def _run_as_admin(server: PostgresServer, statement: str) -> None:
    asyncpg: Any = pytest.importorskip("asyncpg")
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _find_binaries() -> Path | None:
    """Return the folder with initdb and pg_ctl, which Debian keeps off the PATH."""
    on_path = shutil.which("pg_ctl")
    if on_path is not None:
        return Path(on_path).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    newest = max(versions, key=lambda path: float(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


@contextmanager
def running_cluster(*, synchronous_commit: str = "off") -> Iterator[PostgresServer]:
    """Run a cluster until the block is left. With `synchronous_commit` it may be restarted."""
    binaries = _find_binaries()
    if binaries is None and may_install():
        install("postgresql")
        binaries = _find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (as root, TEST_INSTALL=1 installs it)")
    # Not below TMPDIR: the server's user must get there, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="gateway-pg-", dir="/tmp"))
    data, log = folder / "data", folder / "log"
    settings = {
        "unix_socket_directories": str(folder),
        **_SETTINGS,
        "synchronous_commit": synchronous_commit,
    }
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    start = ["start", "--wait", "--log", str(log), "--options", options]
    try:
        if os.geteuid() == 0:  # initdb refuses root
            shutil.chown(folder, _SERVER_USER, _SERVER_USER)
        _run(binaries / "initdb", "-D", str(data), "-U", _SERVER_USER, *_INITDB_OPTIONS)
        _run(binaries / "pg_ctl", "-D", str(data), *start)
        try:
            yield PostgresServer(folder, binaries)
        finally:
            _run(binaries / "pg_ctl", "-D", str(data), "stop", "--wait", "--mode", "immediate")
    finally:
        shutil.rmtree(folder)


_INITDB_OPTIONS = ("--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")


def _run(binary: Path, *arguments: str) -> None:
    is_root = os.geteuid() == 0
    subprocess.run(
        [binary, *arguments],
        check=True,
        cwd="/",
        stdout=subprocess.DEVNULL,
        user=_SERVER_USER if is_root else None,
        group=_SERVER_USER if is_root else None,
        extra_groups=[] if is_root else None,
    )
