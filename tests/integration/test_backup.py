"""`backup` and `restore` on real files: copies are whole, a restore leaves the old or the new."""

import asyncio
import fcntl
import os
import re
import resource
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig

from gateway.config import StorageConfig
from gateway.domain.billing import Usage
from gateway.domain.projects import AuditEvent
from gateway.errors import ConfigurationError, StorageUnavailable
from gateway.runtime import DATABASE_FILE
from gateway.storage import meta, projects, revisions, schema
from gateway.storage.backup import _opened, back_up, restore
from gateway.storage.sqlite import open_sqlite
from tests.support.booked import admit, end
from tests.support.books import find_differences
from tests.support.commands import CommandLine
from tests.support.stored import NOW_MS, a_project, a_task, an_event

EVENT: Final = AuditEvent("evt_restore", NOW_MS, "cli", "database.restored", "saved.db")
STAMP: Final = "20261128T080000Z"
TIMEOUT_S: Final = 0.1


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    return CommandLine(tmp_path, capsys, monkeypatch)


@pytest.fixture
def database(run: CommandLine) -> Path:
    """The database of a gateway with one project, `old`, that has a task."""
    assert run("projects create old").exit_code == 0
    path = run.folder / ".data" / DATABASE_FILE
    asyncio.run(fill(path, 1))
    return path


async def fill(path: Path, count: int) -> None:
    """Write tasks with all their money, and the ends of most of them."""
    opened = await open_sqlite(path, StorageConfig())
    await opened.write(projects.insert, a_project(), an_event("default"))
    for number in range(count):
        task = a_task(number)
        reservation = await opened.write(admit, task)
        if number % 3:
            await opened.write(end, task, reservation, Usage(40_000 + number, 5))
    await opened.close()


def project_names(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in conn.execute("SELECT name FROM projects")} - {"default"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def is_restored(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as conn:
        rows = conn.execute("SELECT COUNT(*) FROM meta WHERE name = 'restored_at_ms'")
        return bool(rows.fetchone()[0])


def save(run: CommandLine, database: Path) -> Path:
    """Back the database up, then go on: it gets another project, `new`."""
    saved = run.folder / "saved.db"
    back_up(database, saved, lock_timeout_s=TIMEOUT_S)
    assert run("projects create new").exit_code == 0
    return saved


class TestBackup:
    def test_a_copy_beside_a_writer_is_one_state_of_the_books(
        self, run: CommandLine, database: Path
    ) -> None:
        """Each of the writer's transactions touches twelve rows: a torn copy would not add up."""
        counts, is_over = [], threading.Event()

        def write() -> None:
            try:
                asyncio.run(go_on(database, is_over))
            finally:
                is_over.set()

        writer = threading.Thread(target=write)
        writer.start()
        for number in range(8):
            copy = run.folder / f"copy-{number}.db"
            back_up(database, copy, lock_timeout_s=5)
            assert find_differences(copy) == []
            with closing(sqlite3.connect(copy)) as conn:
                assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                counts.append(conn.execute("SELECT COUNT(*) FROM tasks").fetchone()[0])
        is_over.set()
        writer.join()

        assert counts == sorted(counts)
        assert find_differences(database) == []

    def test_it_is_whole_in_one_file_of_its_owners_own(
        self, run: CommandLine, database: Path
    ) -> None:
        made = run("backup --to saved.db --format json")

        saved = run.folder / "saved.db"
        told = made.json
        assert told["path"] == str(saved)
        assert (told["bytes"], told["revision"]) == (saved.stat().st_size, schema.REVISIONS[-1])
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["created_at"])
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        assert names_in(run.folder) == {".data", "saved.db"}
        assert project_names(saved) == {"old"}
        assert find_differences(saved) == []
        assert f"keep a copy of {database.parent.relative_to(run.folder)}/pepper" in made.err

    def test_without_a_name_it_gets_one_in_the_backups_folder(
        self, run: CommandLine, database: Path
    ) -> None:
        folder = database.parent / "backups"

        path = Path(run("backup --format json").json["path"])
        shown = run("backup --to .data/backups").out

        assert path.parent == folder
        assert re.fullmatch(r"gateway-20\d{6}T\d{6}Z\.db", path.name)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert not shown or shown.startswith(f"path        {folder}/gateway-20")

    def test_a_file_that_is_there_is_kept_unless_it_is_said_to_be_replaced(
        self, run: CommandLine, database: Path
    ) -> None:
        (run.folder / "saved.db").write_text("precious")

        refused = run("backup --to saved.db")
        with pytest.raises(FileExistsError):
            back_up(database, run.folder / "saved.db", lock_timeout_s=TIMEOUT_S)
        assert (run.folder / "saved.db").read_text() == "precious"
        replaced = run("backup --to saved.db --force")

        assert refused.exit_code == 2
        assert "saved.db is there already; --force replaces it." in refused.err
        assert replaced.exit_code == 0
        assert project_names(run.folder / "saved.db") == {"old"}

    @pytest.mark.parametrize("force", ["", " --force"])
    def test_what_is_no_regular_file_is_never_replaced(
        self, run: CommandLine, database: Path, force: str
    ) -> None:
        assert database.exists()
        pipe = run.folder / "pipe"
        os.mkfifo(pipe)
        (run.folder / "link").symlink_to(pipe)

        for name in ("pipe", "link"):
            refused = run(f"backup --to {name}{force}")

            assert refused.exit_code == 2
            assert f"{run.folder / name} is no regular file: nothing replaces it." in refused.err
        assert pipe.is_fifo()
        assert (run.folder / "link").is_symlink()

    @pytest.mark.parametrize(
        ("to", "complaint"),
        [
            ("nowhere/saved.db", "There is no folder "),
            (".data/saved.db", "is the data folder: its files are the gateway's. Name another"),
            (".data", "is the data folder: its files are the gateway's. Name another"),
        ],
    )
    def test_a_place_where_none_should_be_is_refused(
        self, run: CommandLine, database: Path, to: str, complaint: str
    ) -> None:
        before = names_in(database.parent)

        outcome = run(f"backup --to {to}")

        assert (outcome.exit_code, outcome.out) == (2, "")
        assert complaint in outcome.err
        assert names_in(database.parent) == before

    def test_a_damaged_database_is_not_copied(self, run: CommandLine, database: Path) -> None:
        damage(database)

        outcome = run("backup --to saved.db")

        assert (outcome.exit_code, outcome.out) == (1, "")
        assert f"{database.relative_to(run.folder)}" in outcome.err
        assert names_in(run.folder) == {".data"}

    def test_outcomes_that_wait_outside_the_database_are_told(
        self, run: CommandLine, database: Path
    ) -> None:
        assert "outcomes.journal" not in run("backup --to one.db").err

        (database.parent / "outcomes.journal").write_text("{}\n")

        assert "Outcomes wait in outcomes.journal" in run("backup --to two.db").err

    def test_without_a_database_there_is_nothing_to_copy(self, run: CommandLine) -> None:
        outcome = run("backup")

        assert (outcome.exit_code, outcome.err) == (
            2,
            "Error: There is no gateway data in .data.\n",
        )
        assert names_in(run.folder) == set()

    @pytest.mark.parametrize("line", ["backup", "restore saved.db"])
    def test_of_postgresql_its_own_tools_are_named(self, run: CommandLine, line: str) -> None:
        config = run.write(
            "gateway.yaml",
            "storage: {url: 'postgresql://u:p@127.0.0.1:1/x'}\n"
            "auth: {pepper: 'x4Jq81LmVb02Tz7Y'}\n",
        )

        outcome = run(f"{line} --config {config}")

        assert outcome.exit_code == 2
        assert ("pg_dump" if line == "backup" else "pg_restore") in outcome.err


async def go_on(path: Path, is_over: threading.Event) -> None:
    opened = await open_sqlite(path, StorageConfig())
    for number in range(100, 100_000):
        task = a_task(number)
        reservation = await opened.write(admit, task)
        await opened.write(end, task, reservation, Usage(number, 5))
        if is_over.is_set():
            break
    await opened.close()


def damage(path: Path) -> None:
    """Overwrite pages in the middle of a database that nobody has open."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096 * 3)


REFUSED: Final = {
    "restore": (2, "give one of FILE, --mark and --open"),
    "restore saved.db --mark": (2, "give one of FILE, --mark and --open"),
    "restore --mark --open": (2, "give one of FILE, --mark and --open"),
    "restore nothing.db": (2, "There is no file nothing.db."),
    "restore .data": (2, "There is no file .data."),
    "restore .data/gateway.db": (2, "is the database itself."),
    "restore empty.db": (2, "empty.db is no database of a gateway."),
    "restore other.db": (2, "other.db is no database of a gateway."),
    "restore text.db": (1, "text.db can't be restored: file is not a database."),
    "restore damaged.db": (1, "damaged.db"),
    "restore lacking.db": (1, "lacking.db is damaged: it has references to missing rows."),
    "restore newer.db": (2, "newer than any that this release knows"),
}


class TestRestore:
    def test_the_backups_content_is_back_and_what_was_there_is_kept(
        self, run: CommandLine, database: Path
    ) -> None:
        assert run("keys create --project old").exit_code == 0
        save(run, database)
        assert project_names(database) == {"old", "new"}

        outcome = run("restore saved.db --format json")

        told = outcome.json
        kept = Path(told["kept"])
        assert told["revision"] == schema.REVISIONS[-1]
        assert kept.name.startswith(f"{DATABASE_FILE}.before-restore-20")
        assert project_names(database) == {"old"}
        assert project_names(kept) == {"old", "new"}
        assert (is_restored(database), is_restored(kept)) == (True, False)
        assert find_differences(database) == find_differences(kept) == []
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert "before it takes new submits" in outcome.err
        assert "An Idempotency-Key that was first used after the backup is new again" in outcome.err
        assert "pepper" not in outcome.err
        assert not any("partial" in name for name in names_in(database.parent))
        assert read_events(database)[-1][1:] == ("database.restored", "saved.db")

    def test_the_database_that_was_kept_can_be_restored_in_turn(
        self, run: CommandLine, database: Path
    ) -> None:
        save(run, database)
        kept = run("restore saved.db --format json").json["kept"]

        assert run(f"restore {kept}").exit_code == 0

        assert project_names(database) == {"old", "new"}

    def test_it_works_where_there_is_no_database(self, run: CommandLine, database: Path) -> None:
        save(run, database)

        outcome = run("restore saved.db --data-dir other --format json")

        assert outcome.json["kept"] is None
        assert "There is no other/pepper, and no key of the backup works without" in outcome.err
        restored = run.folder / "other" / DATABASE_FILE
        assert project_names(restored) == {"old"}
        assert is_restored(restored)
        assert stat.S_IMODE(restored.parent.stat().st_mode) == 0o700

    def test_a_damaged_database_is_replaced_and_kept_as_it_is(
        self, run: CommandLine, database: Path
    ) -> None:
        save(run, database)
        damage(database)
        content = database.read_bytes()

        kept = Path(run("restore saved.db --format json").json["kept"])

        assert project_names(database) == {"old"}
        assert kept.read_bytes() == content

    def test_no_log_of_a_damaged_database_is_applied_to_the_new_one(
        self, run: CommandLine, database: Path
    ) -> None:
        save(run, database)
        wal = Path(f"{database}-wal")
        database.write_bytes(b"no database " * 1000)
        wal.write_bytes(b"a log of it")

        kept = Path(run("restore saved.db --format json").json["kept"])

        assert project_names(database) == {"old"}
        assert not wal.exists() or wal.read_bytes() != b"a log of it"
        assert Path(f"{kept}-wal").read_bytes() == b"a log of it"

    def test_an_older_backup_is_migrated_before_anything_is_replaced(
        self, run: CommandLine, database: Path
    ) -> None:
        old = run.folder / "old.db"
        with closing(sqlite3.connect(old)):
            pass
        with _opened(old, TIMEOUT_S) as conn:
            config = AlembicConfig(attributes={"connection": conn})
            config.set_main_option("script_location", str(revisions.MIGRATIONS))
            conn.exec_driver_sql("BEGIN")
            command.upgrade(config, schema.REVISIONS[0])
            conn.exec_driver_sql("INSERT INTO projects VALUES ('p', 'ancient', 1)")
            conn.commit()

        told = run("restore old.db --format json").json

        assert told["revision"] == schema.REVISIONS[0]
        assert project_names(database) == {"ancient"}
        with _opened(database, TIMEOUT_S) as conn:
            assert revisions.read(conn) == schema.REVISIONS[-1]
            assert meta.find_restored(conn) is not None

    def test_while_a_server_runs_nothing_is_replaced(
        self, run: CommandLine, database: Path
    ) -> None:
        save(run, database)
        with (database.parent / "serve.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

            outcome = run("restore saved.db")

        assert (outcome.exit_code, outcome.out) == (2, "")
        assert "A server runs on .data: stop it before its database is replaced." in outcome.err
        assert project_names(database) == {"old", "new"}

    def test_while_a_command_writes_nothing_is_replaced(
        self, run: CommandLine, database: Path
    ) -> None:
        saved = save(run, database)
        with closing(sqlite3.connect(database, isolation_level=None)) as busy:
            busy.execute("BEGIN IMMEDIATE")
            busy.execute("INSERT INTO projects VALUES ('p', 'meanwhile', 1)")

            with pytest.raises(StorageUnavailable, match=r"has it in use|locked"):
                restore(saved, database, EVENT, stamp=STAMP, lock_timeout_s=TIMEOUT_S)
            busy.execute("COMMIT")

        assert project_names(database) == {"old", "new", "meanwhile"}
        assert not is_restored(database)

    def test_what_can_not_be_restored_leaves_everything_as_it_was(
        self, run: CommandLine, database: Path
    ) -> None:
        spoil_copies(run, database)
        before = names_in(database.parent)

        for line, (exit_code, complaint) in REFUSED.items():
            outcome = run(line)

            assert (outcome.exit_code, outcome.out) == (exit_code, ""), line
            assert complaint in outcome.complaint
            # Beside the lock that every restore takes.
            assert names_in(database.parent) - {"serve.lock"} == before
            assert project_names(database) == {"old", "new"}
            assert not is_restored(database)

    def test_a_restore_by_other_means_can_be_marked(self, run: CommandLine, database: Path) -> None:
        told = run("restore --mark --format json")

        assert list(told.json) == ["restored_at"]
        assert "Restart every server" in told.err
        assert is_restored(database)
        assert project_names(database) == {"old"}

    def test_a_marked_one_can_be_opened_without_a_comparison(
        self, run: CommandLine, database: Path
    ) -> None:
        assert run("restore --mark").exit_code == 0

        told = run("restore --open")

        assert told.exit_code == 0
        assert not is_restored(database)
        assert read_events(database)[-1][1] == "database.opened"
        again = run("restore --open")
        assert again.exit_code == 1
        assert "Nothing was to be done" in again.err

    def test_one_that_is_interrupted_leaves_the_old_database_or_the_new_one(
        self, run: CommandLine, database: Path
    ) -> None:
        """A file that can't grow beyond so many bytes stands in for a disk that is full."""
        saved = save(run, database)
        size = saved.stat().st_size
        outcomes = set()
        for bytes_max in range(0, 3 * size, size // 8):
            try:
                with file_size_limit(bytes_max):
                    restore(saved, database, EVENT, stamp=str(bytes_max), lock_timeout_s=TIMEOUT_S)
            except (StorageUnavailable, OSError):
                outcomes.add("failed")
                assert project_names(database) == {"old", "new"}
                assert not is_restored(database)
            else:
                outcomes.add("done")
                assert project_names(database) == {"old"}
                break
            assert not any("partial" in name for name in names_in(database.parent))
        for kept in database.parent.glob("*.before-restore-*"):
            assert project_names(kept) == {"old", "new"}
        assert outcomes == {"failed", "done"}

    def test_what_a_killed_restore_left_is_cleaned_up_by_the_next(
        self, run: CommandLine, database: Path
    ) -> None:
        save(run, database)
        for suffix in ("", "-journal"):
            leftover = database.parent / f".{DATABASE_FILE}.0123456789abcdef.partial{suffix}"
            leftover.write_text("half")

        assert run("restore saved.db").exit_code == 0

        assert not any("partial" in name for name in names_in(database.parent))
        assert project_names(database) == {"old"}

    def test_what_an_earlier_one_of_the_same_second_kept_is_not_overwritten(
        self, run: CommandLine, database: Path
    ) -> None:
        saved = save(run, database)
        earlier = database.with_name(f"{DATABASE_FILE}.before-restore-{STAMP}")
        earlier.write_text("precious")

        done = restore(saved, database, EVENT, stamp=STAMP, lock_timeout_s=TIMEOUT_S)

        assert earlier.read_text() == "precious"
        assert done.kept is not None
        assert done.kept.name == f"{earlier.name}-2"
        assert project_names(done.kept) == {"old", "new"}
        assert project_names(database) == {"old"}


def spoil_copies(run: CommandLine, database: Path) -> None:
    """Make a backup, and files beside it that are none."""
    saved = save(run, database)
    (run.folder / "empty.db").touch()
    run.write("text.db", "no database " * 1000)
    for name in ("damaged.db", "lacking.db", "newer.db"):
        (run.folder / name).write_bytes(saved.read_bytes())
    damage(run.folder / "damaged.db")
    for name, statement in {
        "lacking.db": "DELETE FROM projects",
        "newer.db": "UPDATE alembic_version SET version_num = '9999'",
        "other.db": "CREATE TABLE tasks (id TEXT)",
    }.items():
        with closing(sqlite3.connect(run.folder / name)) as conn:
            conn.execute(statement)
            conn.commit()


@contextmanager
def file_size_limit(bytes_max: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read_events(path: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(path)) as conn:
        rows = conn.execute("SELECT actor, action, subject FROM audit_events ORDER BY at_ms, id")
        return [tuple(row) for row in rows]


def test_a_schema_of_nobodys_is_told_from_one_of_ours(tmp_path: Path) -> None:
    foreign, target = tmp_path / "foreign.db", tmp_path / "target.db"
    with closing(sqlite3.connect(foreign)) as conn:
        conn.execute("CREATE TABLE alembic_version (version_num TEXT)")
        conn.commit()

    with pytest.raises(ConfigurationError, match="is no database of a gateway"):
        back_up(foreign, target, lock_timeout_s=TIMEOUT_S)

    assert not target.exists()
