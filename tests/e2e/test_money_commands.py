"""Limits, prices and backups as an operator handles them, beside a running server."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import find_differences
from tests.support.gateway import Gateway
from tests.support.published import AT_ONCE, make_body

PATH = "/seedance/generations"
EFFECTIVE_S_MAX = 1.0
"""How long after a command its limit holds on a running server."""


@pytest.fixture
def key(gateway: Gateway) -> str:
    """A key of this test's own: no limit of its is anybody else's."""
    return gateway.create_key()


def id_of(key: str) -> str:
    return key.removeprefix("sg_live_").removeprefix("sg_test_")[:12]


def run_json(gateway: Gateway, *arguments: str) -> Any:
    done = gateway.run_cli(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def set_limit(gateway: Gateway, key: str, *arguments: str) -> None:
    run_json(gateway, "limits", "set", "--key", id_of(key), *arguments)


def submit(gateway: Gateway, key: str) -> tuple[int, str]:
    """Submit a task; return the status, and the code of the error if it is one."""
    with gateway.open_client(key) as client:
        answer = client.post(PATH, json=make_body(AT_ONCE))
    body = answer.json()
    return answer.status_code, body["error"]["code"] if "error" in body else ""


def test_limits_set_beside_a_server_hold_within_a_second_and_are_lifted_as_soon(
    gateway: Gateway, key: str
) -> None:
    assert submit(gateway, key) == (200, "")

    set_limit(gateway, key, "--metric", "rpm", "--cap", "0")
    time.sleep(EFFECTIVE_S_MAX)
    refused = submit(gateway, key)
    set_limit(gateway, key, "--metric", "rpm", "--cap", "none")
    time.sleep(EFFECTIVE_S_MAX)
    assert refused[0] == 429

    # Budgets are read by each admission: they hold at once, and count what was used before.
    set_limit(gateway, key, "--metric", "videos", "--window", "month", "--cap", "1")
    assert submit(gateway, key) == (402, "QuotaExceeded.Budget")
    set_limit(gateway, key, "--metric", "videos", "--window", "month", "--cap", "2")
    assert submit(gateway, key) == (200, "")
    (row,) = run_json(gateway, "limits", "show", "--key", id_of(key))
    assert (row["cap"], row["left"]) == ("2", "0")
    assert int(row["spent"]) + int(row["held"]) == 2

    with gateway.open_client(key) as client:
        told = client.get("/seedance/limits").raise_for_status().json()
    assert [each["metric"] for each in told["limits"] if each["scope"] == "key"] == ["videos"]
    set_limit(gateway, key, "--metric", "videos", "--window", "month", "--cap", "none")
    assert submit(gateway, key) == (200, "")


def test_a_request_is_quoted_as_the_server_holds_it(
    gateway: Gateway, key: str, tmp_path: Path
) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(make_body(AT_ONCE)))

    quoted = run_json(gateway, "prices", "quote", str(body))
    with gateway.open_client(key) as client:
        told = client.post(f"{PATH}?dry_run=1", json=make_body(AT_ONCE)).raise_for_status().json()

    assert quoted["charge_micros"]["high"] == told["charge_micros"]["high"]
    assert quoted["price_version"] == told["price_version"]
    assert quoted["tokens"]["low"] == told["tokens"]["low"]
    assert run_json(gateway, "prices", "list", "--book", "byteplus-usd")


def test_a_backup_is_taken_beside_a_server_and_none_is_restored_over_it(
    gateway: Gateway, key: str, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.db"
    assert submit(gateway, key) == (200, "")

    made = run_json(gateway, "backup", "--to", str(saved))
    assert submit(gateway, key) == (200, "")
    refused = gateway.run_cli("restore", str(saved))

    assert made["bytes"] == saved.stat().st_size
    assert find_differences(saved) == []
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "A server runs on" in refused.stderr
    assert list(gateway.data_dir.glob("*.before-restore-*")) == []
    assert submit(gateway, key) == (200, "")
