"""What `/readyz?verbose` tells of trouble that no read shows, and to whom it tells how much."""

from collections.abc import Callable

import httpx
import pytest
import sqlalchemy as sa

from gateway.app import create_app, create_metrics_app
from gateway.domain.keys import Principal
from gateway.domain.projects import AuditEvent
from gateway.errors import Reconciling, StorageUnavailable, UpstreamUnavailable
from gateway.ports import Runtime
from gateway.services import auditing, restoring
from gateway.services.diagnosing import Level, check_restore
from gateway.services.submission import submit_task
from gateway.storage import audit, meta
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.requests import a_body, a_text

Application = Callable[..., object]


async def read_checks(app: Application) -> dict[str, str]:
    """Return what is told to whoever reaches this listener: readiness is 200 in every test here."""
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        answer = await client.get("/readyz?verbose")
        assert answer.status_code == (await client.get("/readyz")).status_code == 200
    assert answer.json()["status"] == "ok"
    checks: dict[str, str] = answer.json()["checks"]
    return checks


async def ask(runtime: Runtime) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the metrics listener tells, and what the public one does."""
    return await read_checks(create_metrics_app(runtime)), await read_checks(create_app(runtime))


def bound_pages(conn: sa.Connection, count: int) -> None:
    """Let the database be as large as that, or as it is: what a full disk does."""
    conn.exec_driver_sql(f"PRAGMA max_page_count = {count}")


def add_much(conn: sa.Connection, number: int) -> None:
    audit.add(conn, AuditEvent(f"evt_{number}", number, "test", "test.filled", "", "x" * 100_000))


def metric(runtime: Runtime, name: str) -> float:
    lines = runtime.metrics.render().decode().splitlines()
    return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")))


async def test_all_is_well_where_nothing_is_wrong(runtime: Runtime) -> None:
    await auditing.audit(runtime)

    private, public = await ask(runtime)

    well = dict.fromkeys(("draining", "database", "writes", "submits", "ledger"), "ok")
    assert private == public == well
    assert (await check_restore(runtime)).level is Level.OK
    assert metric(runtime, "gateway_restore_waiting") == 0


async def test_a_full_database_is_told_until_a_write_succeeds(
    runtime: Runtime, clock: FakeClock
) -> None:
    await runtime.db.write(bound_pages, 1)
    with pytest.raises(StorageUnavailable):
        await runtime.db.write(add_much, 1)
    clock.advance(60)
    with pytest.raises(StorageUnavailable):
        await runtime.db.write(add_much, 2)

    private, public = await ask(runtime)

    told = "none has succeeded since 2026-11-22T07:01:02Z: The store can't answer now."
    assert private["database"] == public["database"] == "ok"  # it is read from as ever
    assert private["writes"] == f"{told} (SQLITE_FULL)"
    assert public["writes"] == told

    await runtime.db.write(bound_pages, 2**30)
    await runtime.db.write(add_much, 3)

    assert (await ask(runtime))[0]["writes"] == "ok"


async def test_a_transaction_that_is_refused_is_no_failure_of_the_store(runtime: Runtime) -> None:
    await runtime.db.write(add_much, 1)
    with pytest.raises(sa.exc.IntegrityError):
        await runtime.db.write(add_much, 1)

    assert (await ask(runtime))[0]["writes"] == "ok"


async def test_while_submits_wait_for_a_comparison_probes_say_so(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await runtime.db.write(meta.set_restored, clock.now_ms())
    await restoring.close_if_restored(runtime)
    upstream.list_error = UpstreamUnavailable("No answer.")
    with pytest.raises(UpstreamUnavailable):
        await restoring.compare_restored(runtime)
    with pytest.raises(Reconciling):
        await submit_task(runtime, principal, a_body(a_text("A paper boat")), "req")

    private, public = await ask(runtime)

    told = "they wait until the restored database is compared with"
    assert private["submits"] == f"{told} the lists of fake/default"
    assert public["submits"] == f"{told} its upstreams' lists"
    assert metric(runtime, "gateway_restore_waiting") == 1
    finding = await check_restore(runtime)
    assert finding.level is Level.WARN
    assert "2026-11-22T07:01:02Z" in finding.message
    assert "restore --open" in finding.remedy

    upstream.list_error = None
    assert await restoring.compare_restored(runtime)

    assert (await ask(runtime))[0]["submits"] == "ok"
    assert metric(runtime, "gateway_restore_waiting") == 0
    assert (await check_restore(runtime)).level is Level.OK
