"""The schema: made at once or by migrations it is the same, and it refuses what is wrong."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from gateway.config import StorageConfig
from gateway.domain.tasks import Event
from gateway.errors import StorageUnavailable
from gateway.ports import Database
from gateway.storage import keys, migrate, requests, revisions, schema, tasks
from gateway.storage.postgres import _Server
from gateway.storage.sqlite import _engine
from gateway.storage.tasks import TaskFilter
from tests.contract.conftest import Place
from tests.support.stored import a_task, moved

Facts = Mapping[str, object]

SQLITE_FACTS = {
    "tables": "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main'",
    "columns": "SELECT m.name, c.* FROM sqlite_schema m, pragma_table_xinfo(m.name) c",
    "indexes": (
        "SELECT m.name, i.name, i.'unique', i.origin, i.partial, x.seqno, x.name, x.desc, x.coll "
        "FROM sqlite_schema m, pragma_index_list(m.name) i, pragma_index_xinfo(i.name) x "
        "WHERE m.type = 'table'"
    ),
    "references": "SELECT m.name, f.* FROM sqlite_schema m, pragma_foreign_key_list(m.name) f",
    "conditions": "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL",
    "triggers": "SELECT name, tbl_name, sql FROM sqlite_schema WHERE type = 'trigger'",
}
POSTGRES_FACTS = {
    "columns": (
        "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, "
        "character_maximum_length FROM information_schema.columns WHERE table_schema = 'public'"
    ),
    "constraints": (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace"
    ),
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "functions": (
        "SELECT proname, pg_get_functiondef(oid) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace"
    ),
}


def read_facts(conn: sa.Connection) -> Facts:
    """Return everything that the database knows of its schema."""
    queries = SQLITE_FACTS if conn.dialect.name == "sqlite" else POSTGRES_FACTS
    facts: dict[str, object] = {
        name: sorted(repr(tuple(row)) for row in conn.exec_driver_sql(query))
        for name, query in queries.items()
    }
    if conn.dialect.name == "sqlite":
        inspector = sa.inspect(conn)
        # SQLite keeps a CHECK as it was written; only its spaces may differ.
        facts["checks"] = {
            table: sorted((check["name"], " ".join(check["sqltext"].split())) for check in checks)
            for table in inspector.get_table_names()
            if (checks := inspector.get_check_constraints(table))
        }
    return facts


def facts_of_sqlite(make: Callable[[sa.Connection], None]) -> Facts:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as conn:
        make(conn)
        facts = read_facts(conn)
    engine.dispose()
    return facts


async def facts_of_postgres(config: StorageConfig, make: Callable[[sa.Connection], None]) -> Facts:
    def make_read_and_forget(conn: sa.Connection) -> Facts:
        with conn.begin_nested() as savepoint:
            make(conn)
            facts = read_facts(conn)
            savepoint.rollback()
        return facts

    return await _Server(config).run_once(make_read_and_forget)


def test_migrations_lead_to_the_schema_that_is_made_at_once_on_sqlite() -> None:
    made, migrated = facts_of_sqlite(schema.create), facts_of_sqlite(revisions.migrate)

    assert migrated == made
    assert made["triggers"]
    assert made["checks"]


async def test_migrations_lead_to_the_schema_that_is_made_at_once_on_postgres(
    postgres_place: Place,
) -> None:
    made = await facts_of_postgres(postgres_place.config, schema.create)
    migrated = await facts_of_postgres(postgres_place.config, revisions.migrate)

    assert migrated == made
    assert made["triggers"]
    assert made["functions"]


def test_every_table_is_strict_and_every_check_is_named() -> None:
    facts = facts_of_sqlite(schema.create)

    loose = [table for table in facts["tables"] if table.endswith("0)")]  # type: ignore[attr-defined]
    assert sorted(name.split("'")[1] for name in loose) == ["alembic_version", "sqlite_schema"]
    for checks in facts["checks"].values():  # type: ignore[attr-defined]
        assert all(name for name, _ in checks)


def test_knows_every_revision_that_there_is() -> None:
    config = Config()
    config.set_main_option("script_location", str(revisions.MIGRATIONS))
    scripts = list(ScriptDirectory.from_config(config).walk_revisions())

    assert [script.revision for script in reversed(scripts)] == list(schema.REVISIONS)
    assert migrate.head_revision() == schema.REVISIONS[-1]


async def test_migrates_an_empty_database_and_does_it_once(place: Place) -> None:
    assert await migrate.current_revision(place.config, place.path) is None

    for _ in range(2):
        await migrate.upgrade(place.config, place.path)
        assert await migrate.current_revision(place.config, place.path) == migrate.head_revision()


WRONG_ROWS = {
    "tasks_state_check": "UPDATE tasks SET state = 'paused'",
    "tasks_version_check": "UPDATE tasks SET version = 0",
    "tasks_observed_check": "UPDATE tasks SET state = 'running'",
    "task_transitions_to_state_check": (
        "INSERT INTO task_transitions SELECT id, 2, 'reserved', 'paused', 'lost', 1 FROM tasks"
    ),
    "task_transitions_from_state_check": (
        "INSERT INTO task_transitions SELECT id, 2, 'paused', 'queued', 'lost', 1 FROM tasks"
    ),
    "task_transitions_event_check": (
        "INSERT INTO task_transitions SELECT id, 2, 'reserved', 'queued', 'guessed', 1 FROM tasks"
    ),
    "task_transitions_admission_check": (
        "INSERT INTO task_transitions SELECT id, 2, NULL, 'queued', 'lost', 1 FROM tasks"
    ),
}


def run(conn: sa.Connection, statement: str) -> Any:
    result = conn.exec_driver_sql(statement)
    return result.scalar() if result.returns_rows else None


@pytest.mark.parametrize("check", WRONG_ROWS)
async def test_refuses_words_and_numbers_that_cannot_be(database: Database, check: str) -> None:
    await database.write(tasks.admit, a_task(), "{}", None)

    with pytest.raises(sa.exc.IntegrityError, match=check):
        await database.write(run, WRONG_ROWS[check])


APPEND_ONLY = {
    "task_transitions": schema.task_transitions,
    "audit_events": schema.audit_events,
}


@pytest.mark.parametrize("name", APPEND_ONLY)
async def test_nothing_changes_what_is_append_only(database: Database, name: str) -> None:
    table = APPEND_ONLY[name]

    def read_rows(conn: sa.Connection) -> list[Any]:
        return [tuple(row) for row in conn.execute(sa.select(table))]

    def change(conn: sa.Connection, statement: sa.Update | sa.Delete) -> None:
        conn.execute(statement)

    await database.write(tasks.admit, a_task(), "{}", None)
    before = await database.read(read_rows)
    assert before

    for statement in (
        sa.update(table).values(at_ms=1),
        sa.update(table).values(at_ms=table.c.at_ms).where(table.c.at_ms > 0),
        sa.delete(table),
    ):
        with pytest.raises(sa.exc.DBAPIError, match=f"{name} is append-only"):
            await database.write(change, statement)

    assert await database.read(read_rows) == before


async def test_replacing_a_row_does_not_get_past_the_triggers(sqlite_place: Place) -> None:
    database = await sqlite_place.open()
    await database.write(
        run, "INSERT INTO audit_events VALUES ('evt', 1, 'cli', 'made', 'thing', '')"
    )
    with pytest.raises(sa.exc.IntegrityError, match="append-only"):
        await database.write(
            run, "INSERT OR REPLACE INTO audit_events VALUES ('evt', 1, 'me', 'none', 'x', '')"
        )

    assert await database.read(run, "SELECT actor FROM audit_events") == "cli"
    await database.close()


async def test_truncating_does_not_get_past_the_triggers(postgres_place: Place) -> None:
    database = await postgres_place.open()
    with pytest.raises(sa.exc.DBAPIError, match="append-only"):
        await database.write(run, "TRUNCATE audit_events CASCADE")
    await database.close()


async def test_strict_tables_refuse_the_wrong_type(sqlite_place: Place) -> None:
    database = await sqlite_place.open()
    with pytest.raises(sa.exc.IntegrityError, match="cannot store TEXT value in INTEGER column"):
        await database.write(run, "INSERT INTO projects VALUES ('p', 'p', 'soon')")
    with pytest.raises(sa.exc.IntegrityError, match="cannot store REAL value in INTEGER column"):
        await database.write(run, "INSERT INTO projects VALUES ('p', 'p', 9223372036854775807 + 1)")
    await database.close()


async def test_references_must_exist(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError):
        await database.write(tasks.admit, a_task(project_id="proj_none"), "{}", None)


FREQUENT: Mapping[str, Callable[[sa.Connection], object]] = {
    "find_owned": lambda conn: tasks.find_owned(conn, "p", "t"),
    "page_owned": lambda conn: tasks.page_owned(conn, "p", TaskFilter(since_ms=1), 0, 10),
    "apply_transition": lambda conn: tasks.apply_transition(
        conn, a_task(), moved(a_task(), Event.ACCEPTED), Event.ACCEPTED
    ),
    "next_due_at": lambda conn: tasks.next_due_at(conn, "u", "c"),
    "claim_due": lambda conn: tasks.claim_due(
        conn, "u", "c", now_ms=1, far_ms=9, lease_until_ms=2, limit=10
    ),
    "find_lost": lambda conn: tasks.find_lost(conn, 1, 10),
    "count_unfinished": tasks.count_unfinished,
    "find_expired": lambda conn: requests.find_expired(conn, 1, 10),
    "find_key": lambda conn: keys.find(conn, "k"),
}


@pytest.mark.parametrize("name", FREQUENT)
def test_what_runs_often_reads_no_whole_table_and_sorts_nothing(name: str) -> None:
    ran: list[tuple[str, Any]] = []
    engine = sa.create_engine("sqlite://")
    with engine.connect() as conn:
        schema.create(conn)
        sa.event.listen(
            conn,
            "before_cursor_execute",
            lambda _conn, _cursor, sql, values, _context, _many: ran.append((sql, values)),
        )
        FREQUENT[name](conn)
        plans = [
            str(row.detail)
            for sql, values in list(ran)
            for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)
        ]
    engine.dispose()

    assert any(step.startswith("SEARCH") for step in plans)
    bad = [step for step in plans if "TEMP B-TREE" in step or step.startswith("SCAN tasks")]
    assert bad == []


def test_a_migration_on_sqlite_is_part_of_the_transaction_around_it(tmp_path: Path) -> None:
    engine = _engine(tmp_path / "gateway.db", StorageConfig(), foreign_keys=False)
    with engine.connect() as conn:
        conn.exec_driver_sql("BEGIN IMMEDIATE")
        revisions.migrate(conn)
        assert sa.inspect(conn).has_table("tasks")
        conn.rollback()
        assert conn.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar_one() == 0


async def test_a_migration_that_fails_changes_nothing(sqlite_place: Place) -> None:
    sqlite_place.path.parent.mkdir()
    with closing(sqlite3.connect(sqlite_place.path)) as conn, conn:
        conn.execute("CREATE TABLE tasks (chore TEXT)")
    conn.close()

    with pytest.raises(StorageUnavailable, match="already exists"):
        await sqlite_place.open()

    with closing(sqlite3.connect(sqlite_place.path)) as conn, conn:
        assert conn.execute("SELECT name FROM sqlite_schema").fetchall() == [("tasks",)]
    conn.close()
