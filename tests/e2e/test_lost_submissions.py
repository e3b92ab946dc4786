"""Lost answers, and what an operator can do about them, with real programs."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway, run_program, wait_for_end
from tests.support.programs import run_sandbox_program
from tests.support.published import AT_ONCE, FOREVER_QUEUED, make_body

PATH = "/seedance/generations"
LOST_AFTER = {"operation": "create", "at": "after_create", "action": "reset", "times": 1}
LOST_BEFORE = {"operation": "create", "at": "before_create", "action": "reset", "times": 1}
FOUND_S_MAX = 20.0


def lose(gateway: Gateway, client: httpx.Client, rule: dict[str, object], words: str) -> str:
    """Submit a task whose answer is lost; return its id."""
    gateway.set_faults(rule)
    answer = client.post(PATH, json=make_body(words)).raise_for_status()
    task_id: str = answer.json()["id"]
    return task_id


def show(gateway: Gateway, task_id: str) -> dict[str, object]:
    shown = gateway.run_cli("tasks", "show", task_id, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    task: dict[str, object] = json.loads(shown.stdout)
    return task


@pytest.fixture
def blind(
    tmp_path: Path, captured: Captured, start_gateway: StartGateway
) -> Iterator[tuple[Gateway, httpx.Client]]:
    """A gateway whose provider, a program of its own, has no list."""
    with run_sandbox_program(tmp_path / "provider", captured, "--profile", "no_list") as url:
        gateway = start_gateway("--sandbox-url", url)
        with gateway.open_client() as client:
            yield gateway, client


def test_a_task_whose_answer_was_lost_ends_as_if_it_had_come(
    gateway: Gateway, client: httpx.Client
) -> None:
    before = gateway.read_truth()["creates"]
    task_id = lose(gateway, client, LOST_AFTER, AT_ONCE)

    task = wait_for_end(client, f"{PATH}/{task_id}")

    assert task["status"] == "succeeded"
    assert isinstance(before, int)
    assert gateway.read_truth()["creates"] == before + 1


def test_an_operator_finds_a_task_beside_a_server(blind: tuple[Gateway, httpx.Client]) -> None:
    gateway, client = blind
    task_id = lose(gateway, client, LOST_AFTER, FOREVER_QUEUED)
    made = gateway.read_truth()["tasks"]
    assert isinstance(made, list)
    upstream_task_id = made[0]["id"]
    assert show(gateway, task_id)["state"] == "unknown"

    refused = gateway.run_cli("tasks", "resolve", task_id, "--found", "cgt-20260101000000-aaaaa")
    done = gateway.run_cli(
        "tasks", "resolve", task_id, "--found", upstream_task_id, "--reason", "in the console"
    )

    assert refused.returncode == 1
    assert "shows no task" in refused.stderr
    assert done.returncode == 0, done.stderr
    shown = show(gateway, task_id)
    assert (shown["state"], shown["upstream_task_id"]) == ("queued", upstream_task_id)


@pytest.mark.parametrize("options", [["--absent", "--force"], ["--charge"]])
def test_an_operator_closes_a_task_beside_a_server_and_its_client_hears_of_it(
    blind: tuple[Gateway, httpx.Client], options: list[str]
) -> None:
    gateway, client = blind
    task_id = lose(gateway, client, LOST_BEFORE, AT_ONCE)
    options = [*options, "--reason", "asked the vendor"]

    done = gateway.run_cli("tasks", "resolve", task_id, *options, "--actor", "jo")
    again = gateway.run_cli("tasks", "resolve", task_id, *options)

    assert done.returncode == 0, done.stderr
    assert again.returncode == 1
    assert "nothing to decide" in again.stderr
    task = wait_for_end(client, f"{PATH}/{task_id}")
    assert task["status"] == "failed"
    assert ("gateway" in task) == ("--charge" in options)
    story = json.loads(gateway.run_cli("tasks", "story", task_id, "--format", "json").stdout)
    assert story["audit"][0]["actor"] == "cli:jo"
    assert story["ledger"][-1]["evidence_detail"].startswith("cli:jo said ")


def test_absence_is_not_said_without_force_where_nobody_can_look(
    blind: tuple[Gateway, httpx.Client],
) -> None:
    gateway, client = blind
    task_id = lose(gateway, client, LOST_AFTER, AT_ONCE)

    refused = gateway.run_cli("tasks", "resolve", task_id, "--absent", "--reason", "a guess")

    assert refused.returncode == 1
    assert "can't be seen: " in refused.stderr
    assert "--force" in refused.stderr
    assert show(gateway, task_id)["state"] == "unknown"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--absent", "--charge"],
        ["--found", "a/b"],
        ["--found", "up-1", "--absent"],
        ["--found", "up-1", "--force"],
        ["--absent"],
        ["--charge", "--reason", " "],
        ["--charge", "--force", "--reason", "billed"],
    ],
)
def test_resolve_takes_one_decision(gateway: Gateway, options: list[str]) -> None:
    done = gateway.run_cli("tasks", "resolve", "cgt-20261122000000-aaaaaaaaaaaaaaaaaaaa", *options)

    assert done.returncode == 2


def test_a_probe_asks_for_consent_and_tells_what_it_costs(gateway: Gateway) -> None:
    before = gateway.read_truth()["creates"]

    refused = gateway.run_cli("upstreams", "probe")

    assert refused.returncode == 2
    assert "at most" in refused.stderr
    assert "CNY" in refused.stderr
    assert gateway.read_truth()["creates"] == before


def test_a_probe_beside_a_server_tells_which_markers_come_back(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway()
    faster = {"scale": 200}
    httpx.put(f"{gateway.sandbox_url}/_sandbox/clock", json=faster, trust_env=False)

    done = gateway.run_cli("upstreams", "probe", "--yes", "--format", "json")
    listed = gateway.run_cli("upstreams", "list", "--format", "json")

    assert done.returncode == 0, done.stderr
    probed = json.loads(done.stdout)
    assert probed["state"] == "succeeded"
    assert probed["report"]["echoes"]["seed"]["listed"] is not None
    (row,) = json.loads(listed.stdout)
    assert row["echoes"] == ["seed", "expires_after", "safety_identifier"]
    assert row["unknown"] == 0


def test_after_a_restore_no_task_is_taken_before_the_lists_were_compared(
    tmp_path: Path, captured: Captured
) -> None:
    saved = tmp_path / "saved.db"
    with run_sandbox_program(tmp_path / "provider", captured) as url:
        arguments = ("--sandbox-url", url)
        with (
            run_gateway(tmp_path / "data", captured, arguments) as gateway,
            gateway.open_client() as client,
        ):
            kept = client.post(PATH, json=make_body(FOREVER_QUEUED)).raise_for_status().json()["id"]
            assert gateway.run_cli("backup", "--to", str(saved)).returncode == 0
            gone = client.post(PATH, json=make_body(AT_ONCE)).raise_for_status().json()["id"]
            assert gateway.stop() == 0
        restored = run_program(
            ["restore", str(saved), "--data-dir", str(tmp_path / "data")], captured=captured
        )
        assert restored.returncode == 0, restored.stderr

        with (
            run_gateway(tmp_path / "data", captured, arguments) as gateway,
            gateway.open_client() as client,
        ):
            deadline_s = time.monotonic() + FOUND_S_MAX
            while (answer := client.post(PATH, json=make_body(AT_ONCE))).status_code == 503:
                assert answer.json()["error"]["code"] == "Reconciling"
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            assert answer.status_code == 200
            assert client.get(f"{PATH}/{kept}").json()["status"] == "queued"
            assert client.get(f"{PATH}/{gone}").status_code == 404
            listed = gateway.run_cli("upstreams", "orphans", "--format", "json")
            (orphan,) = json.loads(listed.stdout)
            made = gateway.read_truth()["tasks"]
            assert isinstance(made, list)
            assert orphan["upstream_task_id"] in {task["id"] for task in made}
            assert orphan["task_id"] is None
        with closing(sqlite3.connect(tmp_path / "data" / "gateway.db")) as database:
            (count,) = database.execute("SELECT count(*) FROM orphans").fetchone()
        assert count == 1
