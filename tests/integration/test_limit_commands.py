"""`limits set` and `limits show`, and limits of the configuration."""

import json
from pathlib import Path

import pytest

from gateway.domain.limits import BUDGETS, Metric, Window
from gateway.settings import load_config
from tests.support.commands import CommandLine

HEAD = ["SCOPE", "ID", "METRIC", "WINDOW", "CAP", "SPENT", "HELD", "LEFT", "RESETS_AT"]
MONEY = "must be a decimal of the currency from 0 to 999999999999.999999"
FULL = "--org --metric money --window month --cap 1"


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    return CommandLine(tmp_path, capsys, monkeypatch)


@pytest.fixture
def key(run: CommandLine) -> str:
    """The public id of a key of the project `default`; with it there is a database."""
    key_id: str = run("keys create --format json").json["id"]
    return key_id


def test_a_limit_of_every_kind_is_set_and_shown(run: CommandLine, key: str) -> None:
    kinds = [
        (metric.value, window.value)
        for metric, window in zip(BUDGETS, [*Window, Window.DAY], strict=True)
    ]
    scopes = ("--org", "--project default", f"--key {key}")
    for number, (metric, window) in enumerate(kinds):
        scope = scopes[number % 3]
        shown = run(
            f"limits set {scope} --metric {metric} --window {window} --cap {number} --format json"
        ).json
        cap = f"{number}.000000" if metric == "money" else str(number)
        assert (shown["metric"], shown["window"], shown["cap"]) == (metric, window, cap)
    for metric in ("tasks", "rpm"):
        shown = run(f"limits set --key {key} --metric {metric} --cap 7 --format json").json
        assert shown == {"scope": "key", "id": key, "metric": metric, "window": None, "cap": "7"}

    rows = run("limits show --format json").json

    assert len(rows) == len(kinds) + 2
    assert {(row["metric"], row["window"]) for row in rows} == {
        *kinds,
        ("tasks", None),
        ("rpm", None),
    }
    (rate,) = (row for row in rows if row["metric"] == "rpm")
    assert (rate["cap"], rate["spent"], rate["held"], rate["left"]) == ("7", None, None, None)
    for row in rows:
        if row["metric"] != "rpm":
            assert row["left"] == row["cap"]
        is_reset = row["window"] in {"day", "month"}
        assert (row["resets_at"] is not None) is is_reset


def test_the_tables_say_the_same_in_columns(run: CommandLine, key: str) -> None:
    done = run("limits set --org --metric money --window ever --cap 12.5")

    assert done.out == ("scope   org\nid      -\nmetric  money\nwindow  ever\ncap     12.500000\n")
    assert run("limits show").table == [
        HEAD,
        ["org", "-", "money", "ever", "12.500000", "0.000000", "0.000000", "12.500000", "-"],
    ]
    assert run(f"limits show --key {key}").table == [HEAD]


def test_one_account_is_shown_alone(run: CommandLine, key: str) -> None:
    run("projects create team")
    run(f"limits set {FULL}")
    run("limits set --project team --metric tasks --cap 3")
    run(f"limits set --key {key} --metric rpm --cap 60")

    def shown(scope: str) -> list[str]:
        return [row["metric"] for row in run(f"limits show {scope} --format json").json]

    assert shown("--org") == ["money"]
    assert shown("--project team") == ["tasks"]
    assert shown("--project default") == []
    assert shown(f"--key {key}") == ["rpm"]
    assert shown("") == ["money", "tasks", "rpm"]


def test_a_limit_takes_the_place_of_an_earlier_one_and_none_lifts_it(
    run: CommandLine, key: str
) -> None:
    assert key
    run(f"limits set {FULL}")
    run("limits set --org --metric money --window month --cap 2")
    assert [row["cap"] for row in run("limits show --format json").json] == ["2.000000"]

    lifted = run("limits set --org --metric money --window month --cap none --format json").json

    assert lifted["cap"] is None
    assert run("limits show --format json").json == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("", "Missing option '--metric'"),
        ("--org --metric money --window day", "Missing option '--cap'"),
        ("--metric money --window month --cap 1", "give one of --org, --project and --key"),
        ("--org --key x --metric rpm --cap 1", "give one of --org, --project and --key"),
        (
            "--org --metric moneys --cap 1",
            "--metric: must be one of money, videos, seconds, tokens, tasks, rpm",
        ),
        ("--org --metric money --cap 1", "--window: money needs a window: day, month or ever"),
        ("--org --metric money --window week --cap 1", "--window: must be one of day, month, ever"),
        ("--org --metric rpm --window day --cap 1", "--window: rpm takes no window"),
        ("--org --metric tasks --window ever --cap 1", "--window: tasks takes no window"),
        (
            "--org --metric money --window day --cap 1,5",
            f"--cap: {MONEY}, with six decimals at most, or none",
        ),
        (
            "--org --metric money --window day --cap 9223372036854",
            f"--cap: {MONEY}",
        ),
        (
            "--org --metric money --window day --cap 99999999999999999999999999",
            f"--cap: {MONEY}",
        ),
        ("--org --metric money --window day --cap=-1", "--cap: must be a decimal of the currency"),
        ("--org --metric money --window day --cap 1e3", "--cap: must be a decimal of the currency"),
        ("--org --metric money --window day --cap 0.0000001", "--cap: must be a decimal"),
        (
            "--org --metric tokens --window day --cap 1.5",
            "--cap: must be a whole number from 0 to 1000000000000000, or none",
        ),
        (
            "--org --metric rpm --cap 1000001",
            "--cap: must be a whole number from 0 to 1000000, or none",
        ),
        (f"{FULL} --format xml", "'--format': Value error, 'xml' is not one of 'table', 'json'"),
    ],
)
def test_a_mistake_names_the_option_and_what_is_allowed(
    run: CommandLine, options: str, complaint: str
) -> None:
    outcome = run(f"limits set {options}")

    assert (outcome.exit_code, outcome.out) == (2, "")
    assert complaint in outcome.complaint


def test_nobody_unknown_has_limits(run: CommandLine, key: str) -> None:
    assert key
    for command in ("set --metric rpm --cap 1", "show"):
        for scope in ("project", "key"):
            outcome = run(f"limits {command} --{scope} nobody")
            said = f"Error: There is no {scope} 'nobody'.\n"
            assert (outcome.exit_code, outcome.err) == (1, said)


def test_without_a_database_there_is_nothing_to_set_or_show(run: CommandLine) -> None:
    for command in (f"set {FULL}", "show"):
        outcome = run(f"limits {command}")
        assert (outcome.exit_code, outcome.err) == (
            2,
            "Error: There is no gateway data in .data.\n",
        )
    assert list(run.folder.iterdir()) == []


def test_who_set_what_is_on_record(run: CommandLine, key: str) -> None:
    run(f"limits set {FULL} --actor jo")
    run(f"limits set --key {key} --metric rpm --cap none --actor jo")

    events = read_events(run.folder)

    assert events == [
        ("cli:jo", "limit.set", "org:", "metric=money window=month cap=1.000000"),
        ("cli:jo", "limit.set", f"key:{key}", "metric=rpm window=- cap=none"),
    ]


def read_events(folder: Path) -> list[tuple[str, ...]]:
    import sqlite3  # noqa: PLC0415 - of this test alone

    with sqlite3.connect(folder / ".data" / "gateway.db") as conn:
        rows = conn.execute(
            "SELECT actor, action, subject, detail FROM audit_events "
            "WHERE action = 'limit.set' ORDER BY at_ms, id"
        )
        return [tuple(row) for row in rows]


DEFAULTS = """
limits:
  organization:
    - {metric: money, window: month, cap: "12.5"}
  project:
    - {metric: tasks, cap: 3}
  key:
    - {metric: rpm, cap: 60}
    - {metric: videos, window: day, cap: 9}
"""


def test_limits_of_the_configuration_hold_for_whoever_has_none_of_his_own(
    run: CommandLine, key: str
) -> None:
    config = f"--config {run.write('gateway.yaml', DEFAULTS)} --format json"
    run(f"limits set --key {key} --metric videos --window day --cap 1")

    def shown(scope: str) -> list[tuple[str, str]]:
        rows = run(f"limits show {scope} {config}").json
        return [(row["metric"], row["cap"]) for row in rows]

    assert shown("--org") == [("money", "12.500000")]
    assert shown("--project default") == [("tasks", "3")]
    assert shown(f"--key {key}") == [("videos", "1"), ("rpm", "60")]
    run(f"limits set --key {key} --metric rpm --cap none")
    run("limits set --org --metric money --window month --cap none")
    assert shown(f"--key {key}") == [("videos", "1")]
    assert shown("--org") == []


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ("team: []", "limits.team: there is no such setting"),
        ("key: [{metric: rpm}]", "limits.key[0].cap: "),
        ("key: [{metric: frames, cap: 1}]", "limits.key[0].metric: must be"),
        ("key: [{metric: money, cap: 1}]", "limits.key[0]: money needs a window: day, month or"),
        ("key: [{metric: rpm, window: day, cap: 1}]", "limits.key[0]: rpm takes no window"),
        ("key: [{metric: rpm, cap: true}]", "limits.key[0].cap: must be a number"),
        ("key: [{metric: rpm, cap: -1}]", "limits.key[0].cap: must be a whole number from 0 to"),
        (
            "org: []",
            "limits.org: there is no such setting",
        ),
        (
            "organization: [{metric: money, window: day, cap: 0.0000001}]",
            "limits.organization[0].cap: must be a decimal of the currency from 0 to",
        ),
        (
            "project: [{metric: rpm, cap: 5}, {metric: rpm, cap: 6}]",
            "limits.project: the limit of rpm is given twice",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_named(
    run: CommandLine, limits: str, problem: str
) -> None:
    name = run.write("gateway.yaml", f"limits: {{{limits}}}\n")

    outcome = run(f"config check --config {name} --format json")

    findings = json.loads(outcome.out)["findings"] if outcome.out else []
    said = [f"{each['check']}: {each['message']}" for each in findings]
    assert outcome.exit_code == 2
    assert problem in "\n".join([*said, outcome.err])


@pytest.mark.parametrize(
    ("cap", "problem"),
    [
        ("1e400", "must be a whole number from 0 to 1000000000000000"),
        ("1.0e400", "must be a whole number from 0 to 1000000000000000"),
        (".inf", "must be a whole number from 0 to 1000000000000000"),
        (".nan", "must be a whole number from 0 to 1000000000000000"),
        ("-1", "must be a whole number from 0 to 1000000000000000"),
        ("many", "must be a whole number from 0 to 1000000000000000"),
        ("[1]", "must be a number"),
        ("{a: 1}", "must be a number"),
        ("null", "must be a number"),
    ],
)
def test_a_cap_that_is_none_is_told_once(run: CommandLine, cap: str, problem: str) -> None:
    limits = f"organization: [{{metric: videos, window: month, cap: {cap}}}]"
    name = run.write("gateway.yaml", f"limits: {{{limits}}}\n")

    outcome = run(f"config check --config {name}")

    assert outcome.exit_code == 2
    assert outcome.err == (
        f"Error: The configuration has a problem:\n  limits.organization[0].cap: {problem}\n"
    )


@pytest.mark.parametrize(
    ("cap", "micros"),
    [
        ("0.1", 100_000),
        ("'12.50'", 12_500_000),
        ("'100000000000.000001'", 10**17 + 1),
        ("7", 7 * 10**6),
    ],
)
def test_a_decimal_of_the_configuration_is_read_as_it_is_written(
    run: CommandLine, cap: str, micros: int
) -> None:
    limits = f"organization: [{{metric: money, window: ever, cap: {cap}}}]"
    config = load_config(run.folder / run.write("gateway.yaml", f"limits: {{{limits}}}\n"), {}, {})

    (default,) = config.limits.defaults().organization
    assert default.cap == micros


def test_every_metric_is_tried() -> None:
    assert {*BUDGETS, Metric.TASKS, Metric.RPM} == set(Metric)
