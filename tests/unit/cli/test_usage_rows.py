"""How rows of reports are printed: to spreadsheets, to people, to programs."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.usage_rows import (
    SUM_COLUMNS,
    print_rows_as_csv,
    print_rows_as_json,
    print_sums_as_table,
    sum_as_row,
)
from gateway.domain.usage import UsageKind, UsageRow

MEAN = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠x")


def a_row(**changes: object) -> UsageRow:
    row: dict[str, object] = {
        "kind": UsageKind.SETTLED,
        "project": "default",
        "key": None,
        "model": None,
        "day": None,
        "tasks": 2,
        "estimated": 0,
        "videos": 2,
        "seconds": 10,
        "tokens": 98_010,
        "charge_micros": 1_470_150,
        "held_micros": 0,
        "cost_currency": "CNY",
        "cost_micros": 2_000_001,
    }
    return UsageRow(**{**row, **changes})  # type: ignore[arg-type]


def as_csv(capsys: pytest.CaptureFixture[str], *rows: UsageRow) -> list[dict[str, str]]:
    print_rows_as_csv(SUM_COLUMNS, "USD", map(sum_as_row, rows))
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))


def test_amounts_are_decimals_beside_their_currencies(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = as_csv(capsys, a_row())

    assert (row["currency"], row["charge"]) == ("USD", "1.470150")
    assert (row["cost_currency"], row["cost"]) == ("CNY", "2.000001")
    assert (row["tasks"], row["key"]) == ("2", "")


@pytest.mark.parametrize("text", MEAN)
def test_no_cell_is_a_formula(capsys: pytest.CaptureFixture[str], text: str) -> None:
    (row,) = as_csv(capsys, a_row(project=text))

    assert row["project"] == f"'{text}"


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_name_comes_through_and_none_begins_like_a_formula(text: str) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        print_rows_as_csv(SUM_COLUMNS, "USD", [sum_as_row(a_row(model=text))])

    (row,) = csv.DictReader(io.StringIO(out.getvalue(), newline=""))

    assert row["model"] in {text, f"'{text}"}
    assert not row["model"].startswith(("=", "+", "-", "@", "\t", "\r"))


def test_json_is_one_line_that_parses(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [sum_as_row(a_row(project=name)) for name in ("a", "ü\n", '"')]

    for count in range(4):
        print_rows_as_json({"currency": "USD"}, rows[:count])
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        assert json.loads(out) == {"currency": "USD", "rows": rows[:count]}


def test_a_total_adds_up_each_currency_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [a_row(), a_row(cost_currency="EUR", cost_micros=3), a_row(kind=UsageKind.LOSS)]

    print_sums_as_table(["project"], "USD", [sum_as_row(row) for row in rows])

    total = capsys.readouterr().out.splitlines()[-1]
    assert total.startswith("total")
    assert "USD 4.410450" in total
    assert total.endswith("CNY 4.000002 + EUR 0.000003")


def test_one_row_has_no_total_and_names_can_not_command_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_sums_as_table(["project"], "USD", [sum_as_row(a_row(project="\x1b[2Jx"))])

    out = capsys.readouterr().out
    assert out.count("\n") == 2
    assert "\x1b" not in out
