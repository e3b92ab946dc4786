"""The scenes of the sweep: data folders as they are when each flow begins."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from gateway.journal import has_pending
from gateway.runtime import DATABASE_FILE
from gateway.storage.revisions import MIGRATIONS
from tests.chaos.bench import Bench
from tests.chaos.flows import BACKUP_FOLDER, MODEL
from tests.chaos.sweep import KEY, PRELUDE, Scene
from tests.support.strace import Injection, count_of

_OLD_REVISION: Final = "0001"
_OLD_TASK_ID: Final = "cgt-20251124160000-22222222222222222222"
_OLD_MS: Final = 1_764_000_000_000


def build_scenes(bench: Bench) -> list[Scene]:
    """Make every template and return the scenes."""
    prepared = bench.new_folder()
    bench.run(bench.order("prepare", prepared, bench.sandbox.open_account()))
    return [
        Scene("first start", "prepare", None),
        Scene("submit", "submit", prepared),
        Scene("refuse", "submit", prepared, magic="sandbox:reject-400", may_be_refused=True),
        Scene("cancel", "cancel", prepared, prelude_magic="sandbox:queued=9000", is_slow=True),
        Scene("observe", "observe", prepared, prelude_magic="sandbox:queued=0", is_slow=True),
        _settle(bench, prepared),
        _reconcile(bench, prepared),
        _journal(bench, prepared),
        _replay(bench, prepared),
        (restored := _restore(bench, prepared)),
        _compare(bench, restored),
        _migrate(bench),
    ]


def _settle(bench: Bench, prepared: Path) -> Scene:
    """A task was accepted, and has ended at the upstream."""
    folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
    bench.run(bench.order("submit", folder, credential, idempotency_key=KEY))
    return Scene("settle", "recover", folder, credential)


def _reconcile(bench: Bench, prepared: Path) -> Scene:
    """A task was made and its answer lost; the one before it is known."""
    folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
    bench.run(bench.order("submit", folder, credential, idempotency_key=PRELUDE))
    bench.sandbox.set_faults(
        {"operation": "create", "at": "after_create", "action": "drop", "times": 1}
    )
    bench.run(bench.order("submit", folder, credential, idempotency_key=KEY))
    bench.sandbox.set_faults()
    return Scene("reconcile", "recover", folder, credential)


def _journal(bench: Bench, prepared: Path) -> Scene:
    """The database takes no write once the submission is on its way: the outcome is journalled."""
    fault = _store_fault(bench, prepared, PRELUDE)
    return Scene("journal", "submit", prepared, faults=(fault,))


def _replay(bench: Bench, prepared: Path) -> Scene:
    """So it was, and its process has ended: the journal alone has the outcome."""
    fault = _store_fault(bench, prepared, "")
    folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
    bench.run_faulty(bench.order("submit", folder, credential, idempotency_key=KEY), fault)
    assert has_pending(folder), "the outcome was stored, or is nowhere"
    return Scene("replay", "recover", folder, credential)


def _store_fault(bench: Bench, prepared: Path, prelude: str) -> Injection:
    """Return what lets every write of the database fail that comes after the submission."""
    folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
    order = bench.order("submit", folder, credential, idempotency_key=KEY, prelude=prelude)
    bench.record_points(order)
    written_count = count_of(bench.record_of(order), "pwrite64", before="connect")
    return Injection("pwrite64", written_count + 1, "error=EIO", is_lasting=True)


def _restore(bench: Bench, prepared: Path) -> Scene:
    """A task was accepted, backed up, and has ended and been settled since."""
    folder, credential = bench.new_folder(prepared), bench.sandbox.open_account()
    order = bench.order("submit", folder, credential, idempotency_key=KEY)
    bench.run(order)
    bench.run(bench.order("backup", folder, credential))
    assert list((folder / BACKUP_FOLDER).iterdir())
    bench.run(bench.order("recover", folder, credential))
    return Scene("restore", "restore", folder, credential)


def _compare(bench: Bench, restored: Scene) -> Scene:
    """The same, restored: the next start compares the upstream's list before it takes submits."""
    assert restored.credential is not None
    folder = bench.new_folder(restored.template)
    bench.run(bench.order("restore", folder, restored.credential))
    return Scene("compare", "recover", folder, restored.credential)


def _migrate(bench: Bench) -> Scene:
    """A database of the oldest schema, with a task in progress."""
    folder, credential = bench.new_folder(), bench.sandbox.open_account()
    folder.mkdir(mode=0o700)
    made = bench.sandbox.client.post(
        "/api/v3/contents/generations/tasks",
        json={"model": MODEL, "content": [{"type": "text", "text": "Paper boats --dur 5"}]},
        headers={"Authorization": f"Bearer {credential}"},
    ).raise_for_status()
    path = folder / DATABASE_FILE
    _make_old_database(path)
    with closing(sqlite3.connect(path)) as conn, conn:
        _insert_task(conn, made.json()["id"])
    return Scene(
        "migrate",
        "recover",
        folder,
        credential,
        unpriced=frozenset({_OLD_TASK_ID}),
        comes_again=False,
    )


def _make_old_database(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as conn:
        config = Config(attributes={"connection": conn})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        command.upgrade(config, _OLD_REVISION)
        conn.commit()
    engine.dispose()


def _insert_task(conn: sqlite3.Connection, upstream_task_id: str) -> None:
    """Insert a queued task as a release of that schema did."""
    conn.execute("INSERT INTO projects VALUES ('proj_default', 'default', ?)", [_OLD_MS])
    task = {
        "id": _OLD_TASK_ID,
        "project_id": "proj_default",
        "key_id": "Key000000000",
        "model": MODEL,
        "family": "seedance-1-0-pro",
        "service_tier": "default",
        "upstream": "sandbox",
        "credential": "default",
        "deployment": MODEL,
        "state": "queued",
        "version": 2,
        "created_at_ms": _OLD_MS,
        "updated_at_ms": _OLD_MS,
        "submit_deadline_at_ms": _OLD_MS,
        "expires_at_ms": _OLD_MS,
        "upstream_task_id": upstream_task_id,
        "next_poll_at_ms": _OLD_MS,
        "poll_count": 0,
        "missing_count": 0,
    }
    names, marks = ", ".join(task), ", ".join("?" * len(task))
    conn.execute(f"INSERT INTO tasks ({names}) VALUES ({marks})", list(task.values()))  # noqa: S608
    conn.executemany(
        "INSERT INTO task_transitions VALUES (?, ?, ?, ?, ?, ?)",
        [
            (_OLD_TASK_ID, 1, None, "reserved", None, _OLD_MS),
            (_OLD_TASK_ID, 2, "reserved", "queued", "accepted", _OLD_MS),
        ],
    )
