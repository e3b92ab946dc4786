"""A report of a hundred thousand tasks: it takes the memory of a page of them."""

import csv
import io
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.services import admin
from tests.support.gateway import REPOSITORY, make_environment

COUNT = 100_000
START_MS = 1_795_330_862_000
CHARGE = 735_075
# What 100,000 rows would take as objects is several times that.
MORE_KIB_MAX = 12 * 1024
# Not getrusage, whose peak may be that of the process it was forked from.
_MEASURED = (
    "import re, sys; from gateway.cli.main import main; code = main(sys.argv[1:]); "
    "peak = re.search('VmHWM: *\\t* *([0-9]+)', open('/proc/self/status').read())[1]; "
    "sys.stderr.write('peak ' + peak); sys.exit(code)"
)


def fill(path: Path, project_id: str) -> None:
    """Write settled tasks as the gateway does, as far as reports look at them."""
    price = '{"version":"v1"}'
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA synchronous = OFF")
        for number in range(COUNT):
            task_id, at_ms = f"cgt-20261122000000-{number:020d}", START_MS + number
            conn.execute(
                "INSERT INTO tasks (id, project_id, key_id, model, family, service_tier, upstream, "
                "credential, deployment, state, version, created_at_ms, updated_at_ms, "
                "submit_deadline_at_ms, expires_at_ms, upstream_task_id, poll_count, "
                "missing_count) VALUES (?, ?, 'Key000000000', 'm', 'f', 'default', 'ark', 'c', 'd',"
                " 'succeeded', 4, ?, ?, 0, 0, ?, 0, 0)",
                (task_id, project_id, at_ms, at_ms, f"up-{number}"),
            )
            conn.execute(
                "INSERT INTO reservations VALUES (?, ?, 'Key000000000', ?, 0, 0, ?, ?, 49005, 5, 1,"
                " 0, 'settled', ?, ?, ?, 49005, 5, 1, 0)",
                (task_id, project_id, at_ms, price, CHARGE, at_ms, CHARGE, CHARGE),
            )
            conn.execute(
                "INSERT INTO ledger_entries VALUES (?, 2, 'settle', ?, ?, 'Key000000000', 0, 0, "
                "'CNY', ?, -49005, -5, -1, ?, 49005, 5, 1, 'CNY', ?, 'v1', 0, 'ended', 'seen')",
                (task_id, at_ms, project_id, -CHARGE, CHARGE, CHARGE),
            )
        conn.commit()


@pytest.mark.long
@pytest.mark.tampers_with_books
@pytest.mark.parametrize("form", ["csv", "json", "table"])
async def test_a_report_by_task_takes_no_more_memory_than_one_of_sums(
    runtime: Runtime, config: Config, tmp_path: Path, form: str
) -> None:
    project = await admin.get_project(runtime, "default")
    fill(config.data_dir / DATABASE_FILE, project.id)

    def run(options: str) -> tuple[str, int]:
        out = tmp_path / "report"
        arguments = f"usage report --from 2026-11-01 --to 2026-12-01 --data-dir {config.data_dir}"
        with out.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-c", _MEASURED, *arguments.split(), *options.split()],
                stdout=file,
                stderr=subprocess.PIPE,
                check=True,
                text=True,
                cwd=REPOSITORY,
                env={**make_environment(), "PYTHONPATH": os.fspath(REPOSITORY)},
            )
        return out.read_text(), int(done.stderr.rpartition("peak ")[2])

    _, sums_kib = run("--format csv")
    text, tasks_kib = run(f"--per-task --format {form}")

    assert tasks_kib - sums_kib < MORE_KIB_MAX
    assert text.count("\n") == {"csv": COUNT + 1, "json": 1, "table": COUNT + 2}[form]
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert len({row["task_id"] for row in rows}) == COUNT
        assert {row["charge"] for row in rows} == {"0.735075"}
