"""Usage reports of tasks that really went through: by zone, by command, equal to the ledger."""

import asyncio
import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from pydantic import SecretStr

from gateway.cli.main import main
from gateway.config import Config, StorageConfig
from gateway.domain.keys import Principal
from gateway.domain.limits import Account, Scope, Window
from gateway.domain.tasks import Observation, TaskError
from gateway.domain.usage import Basis, Group, UsageKind, UsageQuery, month_of
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE, open_runtime
from gateway.services import admin, usage
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import balances, migrate
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream

MODEL = "doubao-seedance-1-0-pro-250528"
HOSTILE_MODEL = '=HYPERLINK("http://x.example","y")'
DAY_S = 86_400
# 5 s at 480p of the 1.0 pro: CNY 15 for a million tokens.
TOKENS, CHARGE = 49_005, 735_075


@dataclass
class Shop:
    """A gateway in a time zone, with a client at it."""

    runtime: Runtime
    upstream: FakeUpstream
    clock: FakeClock
    principal: Principal

    async def submit(self, model: str = MODEL) -> str:
        body: dict[str, object] = {
            "model": model,
            "content": [{"type": "text", "text": "a fox --resolution 480p --duration 5"}],
        }
        task = (await submit_task(self.runtime, self.principal, body, "req")).task
        await self.runtime.background.drain()
        return task.id

    async def end(self, upstream_task_id: str, observation: Observation | None = None) -> None:
        """Let the upstream end this task now."""
        used = {"usage": {"completion_tokens": TOKENS, "total_tokens": TOKENS}}
        self.upstream.shown[upstream_task_id] = observation or Observation("succeeded", used)
        # Between two looks some minutes may pass, which would blur the moment.
        now = self.clock.now
        self.clock.now += 3_600_000
        looks = replace(self.runtime, clock=_Still(now, self.clock.now))
        await observe_due(looks, self.upstream, "default")
        self.clock.now = now


class _Still(FakeClock):
    """Says that a look is due, and then that no time has passed."""

    def __init__(self, now_ms: int, due_ms: int) -> None:
        super().__init__(now_ms)
        self._due_ms: int | None = due_ms

    def now_ms(self) -> int:
        due_ms, self._due_ms = self._due_ms, None
        return due_ms if due_ms is not None else self.now


@asynccontextmanager
async def open_shop(config: Config, local: str, zone: str) -> AsyncIterator[Shop]:
    """Open a gateway at a local time of its zone."""
    clock, upstream = FakeClock(local_ms(local, zone)), FakeUpstream()
    finance = config.finance.model_copy(update={"timezone": zone})
    if config.storage.url is not None:
        await migrate.upgrade(config.storage, config.data_dir)
    async with open_runtime(
        config.model_copy(update={"finance": finance}),
        environ={"FAKE_CREDENTIAL": "upstream-canary-credential"},
        clock=clock,
    ) as opened:
        runtime = replace(opened, upstreams={"fake": upstream})
        await admin.ensure_default_project(runtime)
        created = await admin.create_key(runtime, "test", "default")
        principal = Principal(created.project.id, created.record.id)
        yield Shop(runtime, upstream, clock, principal)


@pytest.fixture(params=["sqlite", "postgres"])
def stored(request: pytest.FixtureRequest, config: Config) -> Config:
    """The configuration with either store."""
    if request.param == "sqlite":
        return config
    storage = StorageConfig(url=SecretStr(request.getfixturevalue("postgres_url")))
    auth = config.auth.model_copy(update={"pepper": SecretStr("3f9a1c7e5b2d8046" * 4)})
    return config.model_copy(update={"storage": storage, "auth": auth})


def local_ms(text: str, zone: str) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


async def tasks_by_day(shop: Shop, basis: Basis, zone: str, month: str) -> dict[str, int]:
    """Return how many tasks a month's report by day has, which add up to the month's report."""
    from_ms, to_ms = month_of(local_ms(f"{month}-15", zone), ZoneInfo(zone))
    query = UsageQuery(basis, from_ms, to_ms)
    by_day = (await usage.report(shop.runtime, query, [Group.DAY])).rows
    whole = (await usage.report(shop.runtime, query, [])).rows
    for name in ("tasks", "videos", "seconds", "tokens", "charge_micros", "cost_micros"):
        assert sum(getattr(row, name) for row in by_day) == sum(getattr(row, name) for row in whole)
    return {str(row.day): row.tasks for row in by_day}


async def spent(shop: Shop, window: Window, local: str, zone: str) -> int:
    """Return what the project's budget of the window counts as spent."""
    account = Account(Scope.PROJECT, shop.principal.project_id)
    starts = {window: local_ms(local, zone)}
    found = await shop.runtime.db.read(balances.find, [account], starts)
    return sum(balance.spent.micros for balance in found)


@pytest.mark.parametrize(
    ("zone", "eve", "month", "next_month"),
    [
        ("Asia/Singapore", "2026-10-31", "2026-10", "2026-11"),
        # Clocks go back by an hour in the night to November 1.
        ("America/New_York", "2026-10-31", "2026-10", "2026-11"),
        ("Pacific/Apia", "2026-02-28", "2026-02", "2026-03"),
        ("UTC", "2026-12-31", "2026-12", "2027-01"),
    ],
)
async def test_a_task_of_the_months_last_minute_that_settles_two_days_later(
    stored: Config, zone: str, eve: str, month: str, next_month: str
) -> None:
    async with open_shop(stored, f"{eve}T23:59:59", zone) as shop:
        await shop.submit()
        shop.clock.advance(2 * DAY_S)
        await shop.end("up-1")

        settled = {
            each: await tasks_by_day(shop, Basis.SETTLED, zone, each)
            for each in (month, next_month)
        }
        submitted = {
            each: await tasks_by_day(shop, Basis.SUBMITTED, zone, each)
            for each in (month, next_month)
        }

        assert settled == {month: {}, next_month: {f"{next_month}-02": 1}}
        assert submitted == {month: {eve: 1}, next_month: {}}
        # The budgets of its admission bear it, whenever it settles.
        assert await spent(shop, Window.MONTH, f"{month}-01", zone) == CHARGE
        assert await spent(shop, Window.DAY, eve, zone) == CHARGE
        assert await spent(shop, Window.MONTH, f"{next_month}-01", zone) == 0


@pytest.mark.parametrize(
    ("zone", "midnight", "before", "after"),
    [
        ("Asia/Singapore", "2026-12-01", "2026-11", "2026-12"),
        ("America/New_York", "2026-11-01", "2026-10", "2026-11"),
        ("Pacific/Apia", "2026-04-01", "2026-03", "2026-04"),
    ],
)
async def test_a_millisecond_divides_two_months(
    config: Config, zone: str, midnight: str, before: str, after: str
) -> None:
    async with open_shop(config, f"{midnight}T00:00:00", zone) as shop:
        shop.clock.now -= 1
        await shop.submit()
        await shop.end("up-1")
        shop.clock.now += 1
        await shop.submit()
        await shop.end("up-2")

        for basis in Basis:
            last = await tasks_by_day(shop, basis, zone, before)
            first = await tasks_by_day(shop, basis, zone, after)
            assert (list(last.values()), first) == ([1], {midnight: 1})


@pytest.mark.parametrize(
    ("zone", "start", "hours", "month", "per_day"),
    [
        (
            "America/New_York",
            "2026-11-01T00:30:00",
            50,
            "2026-11",
            {"2026-11-01": 25, "2026-11-02": 24, "2026-11-03": 1},
        ),
        (
            "America/New_York",
            "2026-03-08T00:30:00",
            48,
            "2026-03",
            {"2026-03-08": 23, "2026-03-09": 24, "2026-03-10": 1},
        ),
        # The whole of December 30 was left out when the date line moved.
        (
            "Pacific/Apia",
            "2011-12-29T00:30:00",
            48,
            "2011-12",
            {"2011-12-29": 24, "2011-12-31": 24},
        ),
    ],
)
async def test_a_task_an_hour_is_as_many_a_day_as_the_day_has_hours(
    config: Config, zone: str, start: str, hours: int, month: str, per_day: dict[str, int]
) -> None:
    free = config.finance.model_copy(update={"pricing": False})  # no book is so old
    async with open_shop(config.model_copy(update={"finance": free}), start, zone) as shop:
        for number in range(1, hours + 1):
            await shop.submit()
            await shop.end(f"up-{number}")
            shop.clock.advance(3600)

        for basis in Basis:
            assert await tasks_by_day(shop, basis, zone, month) == per_day


async def test_reports_equal_the_ledger_whatever_became_of_the_tasks(stored: Config) -> None:
    async with open_shop(stored, "2026-11-20T08:00:00", "Asia/Singapore") as shop:
        for number in range(1, 9):
            await shop.submit()
            ends = {
                0: Observation("failed", {}, TaskError("X", "no")),
                1: Observation("succeeded", {}),  # says no tokens: settled on the quote
                2: Observation("queued", {}),
            }
            await shop.end(f"up-{number}", ends.get(number % 4))
            shop.clock.advance(40_000)
        query = UsageQuery(Basis.SUBMITTED, 0, shop.clock.now)
        rows = (await usage.report(shop.runtime, query, [Group.DAY, Group.MODEL])).rows
        account = Account(Scope.PROJECT, shop.principal.project_id)
        (ever,) = await shop.runtime.db.read(balances.find, [account], {Window.EVER: 0})

    assert sum(row.charge_micros for row in rows) == ever.spent.micros == 4 * CHARGE
    assert sum(row.tokens for row in rows) == ever.spent.tokens
    assert sum(row.held_micros for row in rows) == ever.held.micros == 2 * CHARGE
    kinds: Counter[UsageKind] = Counter()
    for row in rows:
        kinds[row.kind] += row.tasks
    assert kinds == {UsageKind.SETTLED: 4, UsageKind.HELD: 2}
    assert sum(row.estimated for row in rows) == 2


# By command, as finance does it.


@dataclass(frozen=True)
class Report:
    """What a command printed."""

    exit_code: int
    out: str
    err: str


@pytest.fixture
def report(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Report]:
    """Run `usage report` with these options on the data folder, days of Singapore."""
    file = tmp_path / "gateway.yaml"
    upstream = {
        "name": "fake",
        "base_url": "http://127.0.0.1:9/api/v3",
        "credentials": [{"env": "FAKE_CREDENTIAL"}],
        "price_book": "volcengine-cny",
    }
    settings = {"upstreams": [upstream], "finance": {"timezone": "Asia/Singapore"}}
    file.write_text(yaml.safe_dump(settings))

    def report(options: str) -> Report:
        capsys.readouterr()
        exit_code = main(
            f"usage report --config {file} --data-dir {config.data_dir} {options}".split()
        )
        captured = capsys.readouterr()
        return Report(exit_code, captured.out, captured.err)

    return report


@pytest.fixture
async def sold(config: Config) -> None:
    """Three tasks in November, one of a model with a mean name, and one held."""
    names = {HOSTILE_MODEL: MODEL, MODEL: MODEL}
    upstream = config.upstreams[0].model_copy(
        update={"models": names, "price_book": "volcengine-cny"}
    )
    named = {"upstreams": (upstream,)}
    async with open_shop(
        config.model_copy(update=named), "2026-11-29T23:00:00", "Asia/Singapore"
    ) as shop:
        for number in (1, 2):
            await shop.submit()
            await shop.end(f"up-{number}")
            shop.clock.advance(0.1)
        shop.clock.advance(7200)
        await shop.submit(HOSTILE_MODEL)
        await shop.end("up-3")
        shop.clock.advance(1)
        await shop.submit()


def sync(report: Callable[[str], Report], options: str) -> "asyncio.Future[Report]":
    """Run a command, which has an event loop of its own, beside this one."""
    return asyncio.ensure_future(asyncio.to_thread(report, options))


@pytest.mark.usefixtures("sold")
async def test_sums_as_json(report: Callable[[str], Report]) -> None:
    done = await sync(
        report,
        "--from 2026-11-01 --to 2026-12-01 --group-by project,key,model,day --format json",
    )

    assert (done.exit_code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    told = json.loads(done.out)
    assert {name: told[name] for name in told if name != "rows"} == {
        "currency": "CNY",
        "by": "settled",
        "from": "2026-10-31T16:00:00Z",
        "to": "2026-11-30T16:00:00Z",
        "timezone": "Asia/Singapore",
        "group_by": ["project", "key", "model", "day"],
    }
    first = next(row for row in told["rows"] if row["day"] == "2026-11-29")
    assert first == {
        "kind": "settled",
        "project": "default",
        "key": first["key"],
        "model": MODEL,
        "day": "2026-11-29",
        "tasks": 2,
        "estimated": 0,
        "videos": 2,
        "seconds": 10,
        "tokens": 2 * TOKENS,
        "charge_micros": 2 * CHARGE,
        "held_micros": 0,
        "cost_currency": "CNY",
        "cost_micros": 2 * CHARGE,
    }
    assert [row["day"] for row in told["rows"]] == ["2026-11-30", "2026-11-29"], "by model first"


@pytest.mark.usefixtures("sold")
async def test_what_is_not_grouped_by_is_null(report: Callable[[str], Report]) -> None:
    done = await sync(report, "--from 2026-11-01 --to 2026-12-01 --format json")

    (row,) = json.loads(done.out)["rows"]
    assert (row["project"], row["key"], row["model"], row["day"]) == ("default", None, None, None)
    assert (row["tasks"], row["charge_micros"]) == (3, 3 * CHARGE)


@pytest.mark.usefixtures("sold")
async def test_tasks_as_csv_with_no_formula_in_it(report: Callable[[str], Report]) -> None:
    done = await sync(
        report, "--from 2026-11-01 --to 2026-12-01 --by submitted --per-task --format csv"
    )

    assert done.exit_code == 0
    assert done.out.count("\r\n") == done.out.count("\n") == 5
    rows = list(csv.DictReader(io.StringIO(done.out, newline="")))
    assert [row["kind"] for row in rows] == ["settled", "settled", "settled", "held"]
    assert rows[2]["model"] == f"'{HOSTILE_MODEL}"
    assert rows[0]["charge"] == rows[0]["cost"] == "0.735075"
    assert rows[0]["currency"] == rows[0]["cost_currency"] == "CNY"
    assert rows[3]["held"] == "0.735075"
    assert rows[3]["settled_at"] == ""
    assert rows[0]["upstream_task_id"] == "up-1"
    assert rows[0]["upstream_request_id"] == "req-1"
    assert rows[0]["evidence"] == "ended"
    assert rows[0]["day"] == "2026-11-29"
    assert rows[0]["submitted_at"] == "2026-11-29T15:00:00Z"
    assert rows[0]["price_version"]
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())


@pytest.mark.usefixtures("sold")
async def test_tables_have_a_total(report: Callable[[str], Report]) -> None:
    sums = await sync(report, "--from 2026-11-01 --to 2026-12-01 --group-by day")
    tasks = await sync(report, "--from 2026-11-01 --to 2026-12-01 --per-task")

    assert "days of Asia/Singapore" in sums.err
    assert [line.split()[0] for line in sums.out.splitlines()] == [
        "DAY",
        "2026-11-29",
        "2026-11-30",
        "total",
    ]
    total = "CNY 2.205225"
    assert total in sums.out.splitlines()[-1]
    assert len(tasks.out.splitlines()) == 5
    assert total in tasks.out.splitlines()[-1]


@pytest.mark.usefixtures("sold")
async def test_sums_as_csv_have_the_same_columns_whatever_is_grouped_by(
    report: Callable[[str], Report],
) -> None:
    one = await sync(report, "--from 2026-11-01 --to 2026-12-01 --group-by day --format csv")
    none = await sync(report, "--from 2020-01-01 --to 2020-02-01 --format csv")

    header = one.out.splitlines()[0]
    assert header.split(",")[:5] == ["kind", "project", "key", "model", "day"]
    assert none.out.splitlines() == [header]


@pytest.mark.usefixtures("sold")
async def test_moments_are_of_the_zone_or_told_exactly(report: Callable[[str], Report]) -> None:
    async def count(options: str) -> int:
        done = await sync(report, f"{options} --format json")
        return sum(row["tasks"] for row in json.loads(done.out)["rows"])

    assert await count("--from 2026-11-29 --to 2026-11-30") == 2
    assert await count("--from 2026-11-30 --to 2026-12-01") == 1
    assert await count("--from 2026-11-29T15:00:00Z --to 2026-11-29T15:00:01Z") == 2
    assert await count("--from 2026-11-29T23:00 --to 2026-11-29T23:01") == 2
    assert await count("--to 2026-12-01") == 3, "from the beginning of that month"
    assert await count("--from 2000-01-01 --to 2100-01-01 --group-by day") == 3


@pytest.mark.parametrize(
    "options",
    [
        "--by admitted",
        "--group-by team",
        "--group-by day --per-task",
        "--from yesterday",
        "--from 2026-12-01 --to 2026-11-01",
        "--from 2026-11-01 --to 2026-11-01",
        "--from 1969-12-01",
        "--to 2300-01-01",
        "--format xml",
    ],
)
def test_wrong_usage_ends_with_2(report: Callable[[str], Report], options: str) -> None:
    done = report(options)

    assert (done.exit_code, done.out) == (2, "")
    assert done.err


ENDS_OF_TIME = ("0001-01-01", "1969-12-31", "2200-01-02", "9999-12-31", "9999-12-31T23:59:59.999Z")
OF_TIME = "of the years 1970 to 2199"


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Singapore", "America/New_York", "Pacific/Kiritimati"]
)
@pytest.mark.parametrize("by", ["settled", "submitted", "settled --group-by day"])
@pytest.mark.parametrize("moment", ENDS_OF_TIME)
def test_a_moment_beyond_what_is_reported_is_refused_by_name(
    report: Callable[[str], Report],
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    by: str,
    zone: str,
) -> None:
    monkeypatch.setenv("GATEWAY_FINANCE__TIMEZONE", zone)
    for options, name in {
        f"--to {moment}": "--to",
        f"--from {moment}": "--from",
        f"--from {moment} --to {moment}": "--from",
        f"--from 2026-01-01 --to {moment}": "--to",
        f"--from {moment} --to 2026-01-01": "--from",
        f"--from 0001-01-01 --to {moment}": "--from",
    }.items():
        done = report(f"{options} --by {by}")

        assert (done.exit_code, done.out) == (2, "")
        words = " ".join(done.err.replace("\u2502", " ").split())
        assert f"{name} must be {OF_TIME}" in words


@pytest.mark.parametrize("zone", ["UTC", "Asia/Singapore", "America/New_York"])
@pytest.mark.usefixtures("sold")
async def test_the_first_and_the_last_day_can_be_reported(
    report: Callable[[str], Report], monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("GATEWAY_FINANCE__TIMEZONE", zone)
    for by in ("settled", "submitted", "settled --group-by day"):
        for options in ("--to 1970-03-02", "--to 2199-12-31", "--from 1970-01-02 --to 1970-01-04"):
            done = await sync(report, f"{options} --by {by}")
            assert done.exit_code == 0, done.err


@pytest.mark.usefixtures("sold")
@pytest.mark.parametrize("options", ["", "--per-task"])
async def test_a_currency_that_no_charge_is_in_is_refused_and_the_others_named(
    report: Callable[[str], Report], options: str
) -> None:
    refused = await sync(report, f"--from 2026-11-01 --currency usd {options}")
    taken = await sync(report, f"--from 2026-11-01 --currency cny {options}")

    assert (refused.exit_code, refused.out) == (2, "")
    assert "--currency: there are no charges in it, but in CNY" in refused.err
    assert taken.exit_code == 0


@pytest.mark.usefixtures("runtime")
async def test_where_nothing_was_charged_yet_any_currency_is_reported_as_nothing(
    report: Callable[[str], Report],
) -> None:
    done = await sync(report, "--from 2026-11-01 --currency usd --format json")

    assert (done.exit_code, json.loads(done.out)["rows"]) == (0, [])


@pytest.mark.tampers_with_books
@pytest.mark.usefixtures("sold")
async def test_two_currencies_are_refused_by_name_unless_one_is_chosen(
    report: Callable[[str], Report], config: Config
) -> None:
    """As if the setting had been changed in between; nobody may add them up."""
    with closing(sqlite3.connect(config.data_dir / DATABASE_FILE)) as conn:
        conn.execute("DROP TRIGGER ledger_entries_no_update")
        conn.execute(
            "UPDATE ledger_entries SET currency = 'USD' WHERE kind = 'settle' AND rowid = "
            "(SELECT max(rowid) FROM ledger_entries WHERE kind = 'settle')"
        )
        conn.commit()
    month = "--from 2026-11-01 --to 2026-12-01"

    for options in (month, f"{month} --per-task --format csv"):
        refused = await sync(report, options)
        assert (refused.exit_code, refused.out) == (1, "")
        assert "CNY, USD" in refused.err
        assert "--currency" in refused.err
    chosen = await sync(report, f"{month} --currency usd --format json")
    told = json.loads(chosen.out)
    assert (told["currency"], [row["tasks"] for row in told["rows"]]) == ("USD", [1])
