"""Live data of an older release goes on under this one, and no older release touches this one's."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig

from gateway.domain.keys import Principal
from gateway.domain.limits import Account, LimitSetting, Metric, Scope
from gateway.domain.tasks import Observation, TaskState
from gateway.ports import Runtime
from gateway.services import auditing, limiting, resolving, status
from gateway.services.cancelling import cancel_task
from gateway.services.observing import observe_due
from gateway.services.reconciling import reconcile_due
from gateway.services.submission import submit_task
from gateway.services.sweeping import sweep_lost_submissions
from gateway.storage import ledger, migrate, revisions, schema, tasks
from gateway.storage.postgres import _Server
from gateway.storage.sqlite import _engine
from tests.contract.conftest import Place
from tests.racing.race import Race, a_body, open_gateway, succeeded, upstream_of
from tests.support.gateway import REPOSITORY, make_environment
from tests.support.sums import find_wrong_sums

OLD_REVISION: Final = "0001"
PRINCIPAL: Final = Principal("proj_old", "Key000000000")
_EVENT_OF: Final = {
    "queued": "accepted",
    "running": "started",
    "unknown": "lost",
    "succeeded": "succeeded",
    "failed": "failed",
}
LIVING: Final = ("queued", "running", "reserved", "unknown")


@dataclass(frozen=True, slots=True)
class Old:
    """A place with a database of the old schema, with a task in each state."""

    race: Race
    place: Place

    def task_id(self, state: str) -> str:
        return f"cgt-20251124160000-{state:2<20}"


def make_old(conn: sa.Connection) -> None:
    """Make the schema and the rows that a release of that schema left."""
    config = AlembicConfig(attributes={"connection": conn})
    config.set_main_option("script_location", str(revisions.MIGRATIONS).replace("%", "%%"))
    command.upgrade(config, OLD_REVISION)
    now_ms = time.time_ns() // 1_000_000
    conn.execute(
        sa.text("INSERT INTO projects VALUES (:id, 'default', :now_ms)"),
        {"id": PRINCIPAL.project_id, "now_ms": now_ms},
    )
    for state in (*LIVING, "succeeded", "failed"):
        _insert_task(conn, state, now_ms - 120_000)


def _insert_task(conn: sa.Connection, state: str, at_ms: int) -> None:
    is_accepted = state not in {"reserved", "unknown"}
    row: Mapping[str, Any] = {
        "id": f"cgt-20251124160000-{state:2<20}",
        "project_id": PRINCIPAL.project_id,
        "key_id": PRINCIPAL.key_id,
        "model": "doubao-seedance-1-0-pro-250528",
        "family": "seedance-1-0-pro",
        "service_tier": "default",
        "upstream": "fake",
        "credential": "default",
        "deployment": "doubao-seedance-1-0-pro-250528",
        "state": state,
        "version": 1 if state == "reserved" else 2,
        "created_at_ms": at_ms,
        "updated_at_ms": at_ms,
        "submit_deadline_at_ms": at_ms + 60_000,
        "expires_at_ms": at_ms + 172_800_000,
        "upstream_task_id": f"up-{state}" if is_accepted else None,
        "fields": '{"usage":{"completion_tokens":7}}' if state == "succeeded" else None,
        "next_poll_at_ms": at_ms if state in {"queued", "running"} else None,
        "poll_count": 0,
        "missing_count": 0,
    }
    marks = ", ".join(f":{name}" for name in row)
    conn.execute(sa.text(f"INSERT INTO tasks ({', '.join(row)}) VALUES ({marks})"), row)  # noqa: S608
    history: list[tuple[int, str | None, str, str | None]] = [(1, None, "reserved", None)]
    if state != "reserved":
        history.append((2, "reserved", state, _EVENT_OF[state]))
    for version, from_state, to_state, event in history:
        conn.execute(
            sa.text("INSERT INTO task_transitions VALUES (:id, :version, :was, :is, :event, :at)"),
            {
                "id": row["id"],
                "version": version,
                "was": from_state,
                "is": to_state,
                "event": event,
                "at": at_ms,
            },
        )


@pytest.fixture
async def old(place: Place, tmp_path: Path) -> Old:
    url = place.config.url
    race = Race("none", str(tmp_path / "data"), None if url is None else url.get_secret_value())
    if url is not None:
        await _Server(place.config).run_once(make_old)
        await migrate.upgrade(place.config, place.path)
    else:
        (tmp_path / "data").mkdir(mode=0o700)
        engine = _engine(tmp_path / "data" / "gateway.db", place.config)
        with engine.connect() as conn:
            conn.exec_driver_sql("BEGIN")
            make_old(conn)
            conn.commit()
    return Old(race, place)


@pytest.fixture
async def runtime(old: Old) -> AsyncIterator[Runtime]:
    """The present release on the old data, which it has brought up to date."""
    async with open_gateway(old.race) as opened:
        yield opened


async def state_of(runtime: Runtime, task_id: str) -> TaskState:
    stored = await runtime.db.read(tasks.find, task_id)
    assert stored is not None
    return stored.task.state


async def count_money(runtime: Runtime) -> int:
    """Return how many rows there are that speak of money."""

    def count(conn: sa.Connection) -> int:
        tables = (schema.reservations, schema.ledger_entries, schema.balances, schema.notifications)
        return sum(
            conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in tables
        )

    return await runtime.db.read(count)


async def test_tasks_in_progress_of_the_old_schema_go_on_and_are_never_charged(
    old: Old, runtime: Runtime
) -> None:
    upstream = upstream_of(runtime)
    for state in ("queued", "running"):
        upstream.shown[f"up-{state}"] = succeeded()
    await sweep_lost_submissions(runtime)
    await observe_due(runtime, upstream, "default")
    await reconcile_due(runtime, upstream, "default")

    states = {state: await state_of(runtime, old.task_id(state)) for state in LIVING}
    assert states == {
        "queued": TaskState.SUCCEEDED,
        "running": TaskState.SUCCEEDED,
        "reserved": TaskState.UNKNOWN,
        "unknown": TaskState.UNKNOWN,
    }
    assert await count_money(runtime) == 0
    assert (await auditing.audit(runtime)).count == 0


async def test_tasks_of_the_old_schema_are_read_and_cancelled_and_hidden_as_ever(
    old: Old, runtime: Runtime
) -> None:
    upstream_of(runtime).shown["up-queued"] = Observation("queued", {})
    listed = await status.list_tasks(runtime, PRINCIPAL, status.TaskQuery())
    shown = await status.get_task(runtime, PRINCIPAL, old.task_id("succeeded"))
    await cancel_task(runtime, PRINCIPAL, old.task_id("succeeded"))
    await cancel_task(runtime, PRINCIPAL, old.task_id("queued"))

    assert listed.total == 6
    assert upstream_of(runtime).cancels == ["up-queued"]
    assert shown.task.bill is None
    assert (await status.list_tasks(runtime, PRINCIPAL, status.TaskQuery())).total == 5
    assert await count_money(runtime) == 0


async def test_a_lost_submission_of_the_old_schema_ends_by_an_operators_word(
    old: Old, runtime: Runtime
) -> None:
    decision = resolving.Decision(
        resolving.Verdict.ABSENT, reason="asked the vendor", is_forced=True
    )
    await resolving.resolve(runtime, "operator", old.task_id("unknown"), decision)

    assert await state_of(runtime, old.task_id("unknown")) is TaskState.FAILED
    assert await count_money(runtime) == 0


async def test_new_tasks_are_held_for_and_old_ones_take_no_room(old: Old, runtime: Runtime) -> None:
    account = Account(Scope.KEY, PRINCIPAL.key_id)
    await limiting.set_limit(runtime, "test", LimitSetting(account, Metric.TASKS, None, 1))
    task = (await submit_task(runtime, PRINCIPAL, a_body("new"), "req")).task
    upstream = upstream_of(runtime)
    upstream.shown["up-queued"] = succeeded()
    await observe_due(runtime, upstream, "default")

    assert await state_of(runtime, old.task_id("queued")) is TaskState.SUCCEEDED
    assert await runtime.db.read(ledger.find_open, task.id) is not None
    assert await runtime.db.read(find_wrong_sums) == []


OLDER_RELEASE: Final = """
import sys
from gateway.storage import schema
schema.REVISIONS = schema.REVISIONS[:-1]
from gateway.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run_older_release(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program as if it had been made before the newest revision of the schema."""
    return subprocess.run(
        [sys.executable, "-c", OLDER_RELEASE, *arguments, "--data-dir", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=make_environment(),
        timeout=60,
    )


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "line",
    [
        "serve --sandbox --port 0",
        "keys create --project default",
        "tasks list",
        "doctor",
        "migrate",
    ],
)
async def test_a_release_that_does_not_know_the_schema_says_so_and_changes_nothing(
    old: Old, runtime: Runtime, line: str
) -> None:
    del runtime  # which has migrated
    folder = Path(old.race.data_dir)
    before = (folder / "gateway.db").read_bytes()

    done = run_older_release(folder, *line.split())

    assert done.returncode in {1, 2}
    said = done.stdout + done.stderr
    assert repr(schema.REVISIONS[-1]) in said
    assert "newer than any that this release knows" in " ".join(said.split())
    assert (folder / "gateway.db").read_bytes() == before
