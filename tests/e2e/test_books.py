"""The books of a running gateway: audited from the start, told of, and explained task by task."""

import json
from typing import Any

import httpx

from tests.support.gateway import Gateway, wait_for_end
from tests.support.published import AT_ONCE, make_body

PATH = "/seedance/generations"


def test_a_running_gateway_audits_its_books_and_explains_each_task(
    gateway: Gateway, client: httpx.Client
) -> None:
    task_id = client.post(PATH, json=make_body(AT_ONCE)).raise_for_status().json()["id"]
    shown: dict[str, Any] = wait_for_end(client, f"{PATH}/{task_id}")

    told = gateway.run_cli("tasks", "story", task_id, "--format", "json")

    assert told.returncode == 0, told.stderr
    story = json.loads(told.stdout)
    assert story["gaps"] == []
    assert story["transitions"][-1]["to"] == story["state"] == "succeeded"
    hold, settled = story["ledger"]
    assert hold["held_micros"] == -settled["held_micros"] == story["quote"]["hold_micros"] > 0
    assert settled["spent_tokens"] == shown["usage"]["completion_tokens"]
    assert settled["cost_micros"] == shown["gateway"]["cost_micros"] > 0
    assert settled["price_version"] == shown["gateway"]["price_version"]
    checks = client.get("/readyz?verbose").json()["checks"]
    assert checks["ledger"] == "ok"
    assert gateway.count("gateway_audit_timestamp_seconds") > 0
    assert gateway.count("gateway_audit_differences") == 0
    doctor = json.loads(gateway.run_cli("doctor", "--format", "json").stdout)
    assert [each["level"] for each in doctor["findings"] if each["check"] == "ledger"] == ["ok"]
