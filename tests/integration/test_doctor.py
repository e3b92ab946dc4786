"""What the doctor says of the pepper's copy, and of an organization without a budget."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import CommandLine

PEPPER = "x4Jq81LmVb02Tz7Y"
REMEDY = "Keep a copy apart from the backups, then say so, once: `doctor --pepper-is-safe`."


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    return CommandLine(tmp_path, capsys, monkeypatch)


def find(run: CommandLine, options: str = "") -> dict[str, tuple[str, str, str]]:
    """Return what the doctor finds, by check."""
    outcome = run(f"doctor --format json {options}")
    return {
        each["check"]: (each["level"], each["message"], each["remedy"])
        for each in json.loads(outcome.out)["findings"]
    }


def confirmations(run: CommandLine) -> list[str]:
    with closing(sqlite3.connect(run.folder / ".data" / "gateway.db")) as conn:
        rows = conn.execute("SELECT actor FROM audit_events WHERE action = 'pepper.copy_confirmed'")
        return [row[0] for row in rows]


def test_the_doctor_warns_until_somebody_says_that_the_pepper_is_kept_apart(
    run: CommandLine,
) -> None:
    run("keys create")

    level, message, remedy = find(run)["pepper copy"]
    assert (level, remedy) == ("warn", REMEDY)
    assert message.startswith(".data/pepper is the only pepper that is known of")
    assert confirmations(run) == []

    said = find(run, "--pepper-is-safe --actor jo")["pepper copy"]
    assert said == ("ok", "an operator has said that there is one", "")
    assert find(run)["pepper copy"] == said
    assert confirmations(run) == ["cli:jo"]


def test_what_was_said_holds_for_that_pepper_alone(run: CommandLine) -> None:
    key_id = run("keys create --format json").json["id"]
    find(run, "--pepper-is-safe")
    run(f"keys revoke {key_id}")
    (run.folder / ".data" / "pepper").unlink()
    run("keys create")

    assert find(run)["pepper copy"][0] == "warn"
    assert find(run, "--pepper-is-safe")["pepper copy"][0] == "ok"


def test_the_doctor_warns_while_submits_wait_for_the_comparison_after_a_restore(
    run: CommandLine,
) -> None:
    run("keys create")
    assert find(run)["restore"] == ("ok", "no submit waits for a comparison", "")
    saved = run("backup --format json").json["path"]

    assert run(f"restore {saved}").exit_code == 0

    level, message, remedy = find(run)["restore"]
    assert level == "warn"
    assert "no submit is taken until it is compared" in message
    assert "`restore --open`" in remedy
    run("restore --open")
    assert find(run)["restore"][0] == "ok"


def test_of_a_wrong_pepper_nobody_can_say_that_it_is_safe(run: CommandLine) -> None:
    run("keys create")
    pepper = run.folder / ".data" / "pepper"
    pepper.write_bytes(pepper.read_bytes()[::-1])

    findings = find(run, "--pepper-is-safe")

    assert findings["pepper"][0] == "fail"
    assert "pepper copy" not in findings
    assert confirmations(run) == []


def test_before_there_is_a_pepper_nothing_is_said_of_a_copy(run: CommandLine) -> None:
    run("migrate")

    findings = find(run, "--pepper-is-safe")

    assert findings["pepper copy"] == ("ok", "the first key will make the pepper", "")
    assert confirmations(run) == []


def test_a_configured_pepper_is_kept_elsewhere_already(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_AUTH__PEPPER", PEPPER)
    run("keys create")

    findings = find(run, "--pepper-is-safe")

    assert findings["pepper copy"] == (
        "ok",
        "it is configured, not kept in the data folder",
        "",
    )
    assert confirmations(run) == []


def test_what_was_said_goes_into_the_backup_with_the_database(run: CommandLine) -> None:
    """The copy that is meant is the pepper's: it still fits the restored database."""
    run("keys create")
    find(run, "--pepper-is-safe")
    run("backup --to saved.db")
    run("projects create later")

    assert run("restore saved.db").exit_code == 0
    assert find(run)["pepper copy"][0] == "ok"


NO_BUDGET = (
    "warn",
    "the organization has none: nothing bounds what all its keys spend together",
    "Set one, such as `limits set --org --metric money --window month --cap N`.",
)


def test_the_doctor_warns_until_the_organization_has_a_budget(run: CommandLine) -> None:
    assert find(run)["budget"] == NO_BUDGET
    key_id = run("keys create --format json").json["id"]
    for line in (
        "--org --metric rpm --cap 60",
        "--org --metric tasks --cap 5",
        "--project default --metric money --window month --cap 5",
        f"--key {key_id} --metric money --window month --cap 5",
    ):
        run(f"limits set {line}")
    assert find(run)["budget"] == NO_BUDGET

    for line, named in {
        "--metric videos --window ever": "videos (ever)",
        "--metric money --window month": "money (month), videos (ever)",
    }.items():
        run(f"limits set --org {line} --cap 5")
        assert find(run)["budget"] == ("ok", f"the organization has one: {named}", "")


def test_a_budget_of_the_configuration_is_one_unless_it_was_lifted(run: CommandLine) -> None:
    limits = "limits: {organization: [{metric: money, window: month, cap: 5}]}\n"
    config = f"--config {run.write('gateway.yaml', limits)}"
    assert find(run, config)["budget"][0] == "ok"
    run("keys create")
    assert find(run, config)["budget"][0] == "ok"

    run("limits set --org --metric money --window month --cap none")

    assert find(run, config)["budget"] == NO_BUDGET


def test_a_warning_alone_is_no_failure(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K", "a credential")
    run("keys create")
    # An upstream that can't be asked would fail, so there is none.
    outcome = run("doctor")

    assert "warn   budget" in outcome.out
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith("fail")] == [
        "upstreams"
    ]
