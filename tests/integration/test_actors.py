"""Who did what by a command is on record, by name."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.commands import CommandLine


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    return CommandLine(tmp_path, capsys, monkeypatch)


def actors(run: CommandLine) -> dict[str, set[str]]:
    """Return who is on record, by what he did; what the start itself does is left out."""
    with closing(sqlite3.connect(run.folder / ".data" / "gateway.db")) as conn:
        rows = conn.execute("SELECT action, actor FROM audit_events WHERE actor <> 'bootstrap'")
        found: dict[str, set[str]] = {}
        for action, actor in rows:
            found.setdefault(action, set()).add(actor)
        return found


def test_every_act_has_the_name_that_was_given(run: CommandLine) -> None:
    run("projects create films --actor jo")
    key_id = run("keys create --project films --actor jo --format json").json["id"]
    run(f"keys rotate {key_id} --grace 1h --actor jo")
    run(f"keys revoke {key_id} --actor jo")
    run("limits set --org --metric tasks --cap 3 --actor jo")
    run("tasks erase --before 1d --actor jo")
    run("webhooks redeliver --all-dead --actor jo")
    run("backup --to saved.db")
    run("restore saved.db --actor jo")
    run("restore --mark --actor jo")

    assert actors(run) == {
        "project.created": {"cli:jo"},
        "key.created": {"cli:jo"},
        "key.rotated": {"cli:jo"},
        "key.revoked": {"cli:jo"},
        "limit.set": {"cli:jo"},
        "requests.erase_requested": {"cli:jo"},
        "webhook.redelivered": {"cli:jo"},
        "database.restored": {"cli:jo"},
    }


def test_the_environment_names_who_acts_unless_the_command_does(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_ACTOR", "deploy-bot")
    run("projects create films")
    run("keys create --project films --actor kim")

    assert actors(run) == {"project.created": {"cli:deploy-bot"}, "key.created": {"cli:kim"}}


def test_a_name_that_is_none_is_refused_and_nothing_done(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("projects create films --actor 'jo said so'")
    monkeypatch.setenv("GATEWAY_ACTOR", "x" * 65)
    also = run("projects create films")

    for outcome in (refused, also):
        assert outcome.exit_code == 2
        assert "--actor" in outcome.complaint
        assert "must be 1 to 64 printable characters, none of them a space" in outcome.complaint
    assert "GATEWAY_ACTOR" in also.complaint
    assert list(run.folder.iterdir()) == []
