"""`usage`: what was used and what that costs, from the ledger. Works beside a running server."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from gateway.cli.durations import parse_moment, rfc3339
from gateway.cli.options import Common, ReportFormat, with_common_of_reports
from gateway.cli.output import say
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.domain.usage import Basis, Group, TaskUsage, UsageQuery
    from gateway.ports import Runtime
    from gateway.services.usage import UsageReport

_GROUPED: Final = "project"
_YEAR_2200_MS: Final = 7_258_118_400_000


def build() -> typer.Typer:
    app = typer.Typer(name="usage", help="Report what was used.", no_args_is_help=True)
    # A group of one command, so that others may come beside it.
    app.callback()(lambda: None)
    app.command("report")(report)
    return app


@with_common_of_reports
def report(
    common: Common,
    *,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE|AGE",
            help="From this moment on: 2026-11-01, 2026-11-01T08:00:00Z, 30d. The beginning of the "
            "month if not given.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DATE|AGE", help="Before this moment; all of this month if not given."
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="Which date counts: settled, as upstreams bill, or submitted, as budgets."
        ),
    ] = "settled",
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Of project, key, model, day, with commas; project if not given."
        ),
    ] = None,
    per_task: Annotated[
        bool, typer.Option("--per-task", help="A row for each task instead of sums.")
    ] = False,
    currency: Annotated[
        str | None, typer.Option(help="Charges in this currency alone, should there be several.")
    ] = None,
) -> None:
    """Report usage, cost and charge, equal to the ledger. Dates are of `finance.timezone`.

    Losses, which upstreams bill and no project is charged, are rows of their own; so is, by
    submission, what is still held.
    """
    if per_task and group_by is not None:
        raise typer.BadParameter("--per-task has a row for each task: leave --group-by out")
    config = common.load()
    query = _read_query(config, from_, to, by, currency)
    head = {
        "by": query.basis.value,
        "from": rfc3339(query.from_ms),
        "to": rfc3339(query.to_ms),
        "timezone": config.finance.timezone,
    }
    if per_task:
        _report_tasks(common, query, head)
    else:
        _report_sums(common, query, _read_groups(group_by), head)


def _report_sums(
    common: Common, query: "UsageQuery", groups: Sequence["Group"], head: Mapping[str, str]
) -> None:
    from gateway.cli import usage_rows
    from gateway.services import usage

    async def act(runtime: "Runtime") -> "UsageReport":
        await _check_currency(runtime, query)
        return await usage.report(runtime, query, groups)

    found = common.run(act, checks_keys=False)
    _say_what(common, head)
    rows = [usage_rows.sum_as_row(row) for row in found.rows]
    names = [group.value for group in groups]
    if common.is_json:
        whole = {"currency": found.currency, **head, "group_by": names}
        usage_rows.print_rows_as_json(whole, rows)
    elif common.output is ReportFormat.CSV:
        usage_rows.print_rows_as_csv(usage_rows.SUM_COLUMNS, found.currency, rows)
    else:
        usage_rows.print_sums_as_table(names, found.currency, rows)


def _report_tasks(common: Common, query: "UsageQuery", head: Mapping[str, str]) -> None:
    from gateway.cli import usage_rows
    from gateway.services import usage

    # Nothing is printed before all is read: no report ends in the middle, and no slow reader of it
    # keeps a state of the database alive.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        spool = _Spool(
            file, query.basis, head["timezone"], measures=common.output is ReportFormat.TABLE
        )

        async def act(runtime: "Runtime") -> str:
            await _check_currency(runtime, query)
            return await usage.report_tasks(runtime, query, spool)

        currency = common.run(act, checks_keys=False)
        _say_what(common, head)
        file.seek(0)
        rows = usage_rows.read_lines(file)
        if common.is_json:
            usage_rows.print_rows_as_json({"currency": currency, **head}, rows)
        elif common.output is ReportFormat.CSV:
            usage_rows.print_rows_as_csv(usage_rows.TASK_COLUMNS, currency, rows)
        else:
            usage_rows.print_tasks_as_table(currency, rows, spool.widths)


async def _check_currency(runtime: "Runtime", query: "UsageQuery") -> None:
    """Raise ConfigurationError for a currency that no charge is in, where others are."""
    from gateway.services import usage

    if query.currency is None:
        return
    others = await usage.find_other_currencies(runtime, query.currency)
    if others:
        raise ConfigurationError(
            f"--currency: there are no charges in it, but in {', '.join(others)}."
        )


def _say_what(common: Common, head: Mapping[str, str]) -> None:
    if not common.is_json:
        say(f"By {head['by']}, {head['from']} to {head['to']}, days of {head['timezone']}.")


class _Spool:
    """Keeps rows in a file, however many, until they are printed."""

    def __init__(self, file: TextIO, basis: "Basis", timezone: str, *, measures: bool) -> None:
        from zoneinfo import ZoneInfo

        from gateway.domain.usage import DayFinder

        self._file, self._basis, self._days = file, basis, DayFinder(ZoneInfo(timezone))
        self._measures = measures
        self.widths: dict[str, int] = {}
        """Of a table's columns, if they are measured."""

    def begin(self) -> None:
        """Forget what was added: a read may have to begin again."""
        self._file.seek(0)
        self._file.truncate()
        self.widths = {}

    def add(self, rows: Sequence["TaskUsage"]) -> None:
        from gateway.cli.usage_rows import task_as_row, widen

        for each in rows:
            row = task_as_row(each, self._days.day_of(each.dated_ms(self._basis)))
            if self._measures:
                widen(self.widths, row)
            self._file.write(json.dumps(row) + "\n")


def _read_query(
    config: "Config", from_: str | None, to: str | None, by: str, currency: str | None
) -> "UsageQuery":
    from zoneinfo import ZoneInfo

    from gateway.clock import SystemClock
    from gateway.domain.usage import Basis, UsageQuery, month_of

    words = [basis.value for basis in Basis]
    if by not in words:
        raise typer.BadParameter(f"--by must be one of {', '.join(words)}")
    zone, now_ms = ZoneInfo(config.finance.timezone), SystemClock().now_ms()
    from_ms = _read_moment("--from", from_, now_ms, zone)
    to_ms = _read_moment("--to", to, now_ms, zone)
    if to_ms is None:
        to_ms = month_of(now_ms, zone)[1]
    if from_ms is None:
        from_ms = max(month_of(max(to_ms - 1, 0), zone)[0], 0)
    if from_ms >= to_ms:
        raise typer.BadParameter("--from must be before --to")
    return UsageQuery(Basis(by), from_ms, to_ms, currency.upper() if currency is not None else None)


def _read_moment(option: str, text: str | None, now_ms: int, zone: tzinfo) -> int | None:
    """Return what an option gives, or None. Raises typer.BadParameter beyond what is reported."""
    if text is None:
        return None
    at_ms = parse_moment(text, now_ms, zone)
    if not 0 <= at_ms <= _YEAR_2200_MS:
        raise typer.BadParameter(f"{option} must be of the years 1970 to 2199")
    return at_ms


def _read_groups(text: str | None) -> Sequence["Group"]:
    """Return the groups in the order in which rows are sorted. Raises typer.BadParameter."""
    from gateway.domain.usage import Group

    words = [group.value for group in Group]
    names = {name.strip() for name in (_GROUPED if text is None else text).split(",")} - {""}
    if not names <= set(words):
        raise typer.BadParameter(f"--group-by takes some of {', '.join(words)}, with commas")
    return [group for group in Group if group.value in names]
