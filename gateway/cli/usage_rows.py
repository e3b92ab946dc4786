"""Rows of usage reports, as tables, CSV and JSON show them.

A row is a mapping of plain values under the names of the JSON form; amounts are in micro-units
there, decimals of the currency elsewhere.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Final

from gateway.cli.durations import rfc3339_or_none
from gateway.cli.output import clean, print_table
from gateway.domain.money import format_amount
from gateway.domain.usage import TaskUsage, UsageRow

Row = Mapping[str, object]

_FIGURES: Final = ("videos", "seconds", "tokens")
_AMOUNTS: Final = ("currency", "charge", "held", "cost_currency", "cost")
SUM_COLUMNS: Final = (
    *("kind", "project", "key", "model", "day", "tasks", "estimated"),
    *_FIGURES,
    *_AMOUNTS,
)
TASK_COLUMNS: Final = (
    *("kind", "project", "key", "model", "day", "task_id"),
    *("upstream", "upstream_task_id", "upstream_request_id"),
    *("state", "submitted_at", "settled_at", "estimated"),
    *_FIGURES,
    *_AMOUNTS,
    *("price_version", "evidence", "evidence_detail"),
)
TASK_TABLE_COLUMNS: Final = ("kind", "project", "model", "day", "task_id", "upstream_task_id")
_MICROS_OF: Final = {"charge": "charge_micros", "held": "held_micros", "cost": "cost_micros"}
# What a spreadsheet takes for the beginning of a formula; also in the wide forms of East Asia.
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def sum_as_row(row: UsageRow) -> Row:
    """Return a row of sums; what is not grouped by is None."""
    return {
        "kind": row.kind.value,
        "project": row.project,
        "key": row.key,
        "model": row.model,
        "day": None if row.day is None else row.day.isoformat(),
        "tasks": row.tasks,
        "estimated": row.estimated,
        "videos": row.videos,
        "seconds": row.seconds,
        "tokens": row.tokens,
        "charge_micros": row.charge_micros,
        "held_micros": row.held_micros,
        "cost_currency": row.cost_currency,
        "cost_micros": row.cost_micros,
    }


def task_as_row(row: TaskUsage, day: date) -> Row:
    """Return a task's row, counted on `day`."""
    return {
        "kind": row.kind.value,
        "project": row.project,
        "key": row.key,
        "model": row.model,
        "day": day.isoformat(),
        "task_id": row.task_id,
        "upstream": row.upstream,
        "upstream_task_id": row.upstream_task_id,
        "upstream_request_id": row.upstream_request_id,
        "state": row.state.value,
        "submitted_at": rfc3339_or_none(row.submitted_at_ms),
        "settled_at": rfc3339_or_none(row.settled_at_ms),
        "estimated": row.is_estimated,
        "videos": row.videos,
        "seconds": row.seconds,
        "tokens": row.tokens,
        "charge_micros": row.charge_micros,
        "held_micros": row.held_micros,
        "cost_currency": row.cost_currency,
        "cost_micros": row.cost_micros,
        "price_version": row.price_version,
        "evidence": row.evidence,
        "evidence_detail": row.evidence_detail,
    }


def print_rows_as_json(head: Row, rows: Iterable[Row]) -> None:
    """Print one line: an object with the fields of `head`, and the rows under `rows`."""
    sys.stdout.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "rows": [')
    for number, row in enumerate(rows):
        sys.stdout.write((", " if number else "") + json.dumps(row, ensure_ascii=False))
    sys.stdout.write("]}\n")
    sys.stdout.flush()


def print_rows_as_csv(columns: Sequence[str], currency: str, rows: Iterable[Row]) -> None:
    """Print RFC 4180 with a line of names. No cell is a formula to a spreadsheet."""
    writer = csv.writer(sys.stdout)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_csv_cell(_cell(row, column, currency)) for column in columns])
    sys.stdout.flush()


def print_sums_as_table(groups: Sequence[str], currency: str, rows: Sequence[Row]) -> None:
    """Print the sums and, if there are several rows, a total."""
    columns = [*groups, "kind", "tasks", *_FIGURES, "charge", "held", "cost"]
    cells = [[_shown(row, column, currency) for column in columns] for row in rows]
    if len(rows) > 1:
        total = _Total()
        for row in rows:
            total.add(row)
        cells.append(total.cells(columns, currency))
    print_table(columns, cells)


def print_tasks_as_table(currency: str, rows: Iterable[Row], widths: Mapping[str, int]) -> None:
    """Print lines as wide as `task_widths` says, and a total."""
    columns = [*TASK_TABLE_COLUMNS, *_FIGURES, "charge", "held", "cost"]
    total = _Total()
    _print_line([(name.upper(), widths.get(name, 0)) for name in columns])
    for row in rows:
        total.add(row)
        _print_line([(_shown(row, name, currency), widths.get(name, 0)) for name in columns])
    if total.count > 1:
        cells = total.cells(columns, currency)
        _print_line(
            [(cell, widths.get(name, 0)) for name, cell in zip(columns, cells, strict=True)]
        )


def widen(widths: dict[str, int], row: Row) -> None:
    """Make room for a row in the columns of a table of tasks whose cells differ in length."""
    for name in (*TASK_TABLE_COLUMNS, *_FIGURES, "charge", "held", "cost"):
        widths[name] = max(widths.get(name, len(name)), len(_shown(row, name, "XXX")))


class _Total:
    """Sums over rows of every kind, and of each currency of cost by itself."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, int] = {}
        self._costs: dict[str, int] = {}

    def add(self, row: Row) -> None:
        self.count += 1
        for name in ("tasks", *_FIGURES, "charge_micros", "held_micros"):
            self._sums[name] = self._sums.get(name, 0) + _number(row.get(name, 0))
        currency = str(row["cost_currency"])
        self._costs[currency] = self._costs.get(currency, 0) + _number(row["cost_micros"])

    def cells(self, columns: Sequence[str], currency: str) -> list[str]:
        costs = " + ".join(f"{name} {format_amount(each)}" for name, each in self._costs.items())
        cells = []
        for number, name in enumerate(columns):
            if name == "cost":
                cells.append(costs)
            elif name in _MICROS_OF:
                cells.append(f"{currency} {format_amount(self._sums[_MICROS_OF[name]])}")
            elif name in self._sums:
                cells.append(str(self._sums[name]))
            else:
                cells.append("total" if number == 0 else "-")
        return cells


def _cell(row: Row, column: str, currency: str) -> object:
    if column == "currency":
        return currency
    if column in _MICROS_OF:
        return format_amount(_number(row[_MICROS_OF[column]]))
    return row[column]


def _shown(row: Row, column: str, currency: str) -> str:
    value = _cell(row, column, currency)
    if column in _MICROS_OF:
        return f"{row['cost_currency'] if column == 'cost' else currency} {value}"
    return "-" if value is None else clean(str(value))


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value


def _number(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 - figures of a row are
    return value


def _print_line(cells: Iterable[tuple[str, int]]) -> None:
    print("  ".join(text.ljust(width) for text, width in cells).rstrip())


def read_lines(lines: Iterable[str]) -> Iterator[Row]:
    """Yield the rows that were written as lines of JSON."""
    for line in lines:
        row: Row = json.loads(line)
        yield row
