"""Commands as an operator runs them: the real program, beside a running server."""

import json
import os
import pty
import re
import resource
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import (
    PROGRAM,
    REPOSITORY,
    Gateway,
    make_environment,
    run_program,
    wait_for_end,
)
from tests.support.published import AT_ONCE, FOREVER_QUEUED, make_body

PATH = "/seedance/generations"
LIST_CPU_S_MAX = 0.5
REVOCATION_S_MAX = 1.0
BAR = "\u2501"
COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-8]|4[0-8]|9[0-7])[;m]")


def submit(client: httpx.Client, prompt: str) -> str:
    answer = client.post(PATH, json=make_body(prompt))
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["id"]
    return task_id


def run_json(gateway: Gateway, *arguments: str) -> dict[str, object]:
    done = gateway.run_cli(*arguments, "--format", "json")
    assert done.returncode == 0, done.stderr
    value: dict[str, object] = json.loads(done.stdout)
    return value


def run_on_a_terminal(
    gateway: Gateway, *arguments: str, environ: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a command with its standard streams on a terminal; return exit code and what it saw."""
    master, slave = pty.openpty()
    command = [*PROGRAM, *arguments, "--data-dir", str(gateway.data_dir)]
    with subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=REPOSITORY,
        env=make_environment({"TERM": "xterm-256color", "COLUMNS": "120", **(environ or {})}),
    ) as process:
        os.close(slave)
        seen = b""
        try:
            while chunk := os.read(master, 65536):
                seen += chunk
        except OSError:  # how Linux tells that the other end is closed
            pass
        finally:
            os.close(master)
    return process.returncode, seen.decode()


def test_a_task_is_awaited_and_shown(gateway: Gateway, client: httpx.Client) -> None:
    task_id = submit(client, AT_ONCE)

    waited = gateway.run_cli("tasks", "wait", task_id, "--format", "json")
    shown = run_json(gateway, "tasks", "show", task_id)

    assert waited.returncode == 0
    assert json.loads(waited.stdout) == shown
    assert waited.stderr.splitlines()[-1] == f"{task_id} succeeded"
    public = client.get(f"{PATH}/{task_id}").json()
    for name in ("id", "model", "status", "content", "usage", "created_at"):
        assert shown[name] == public[name]
    assert (shown["state"], shown["project"], shown["upstream"]) == (
        "succeeded",
        "default",
        "sandbox",
    )
    truth = gateway.read_truth()["tasks"]
    assert isinstance(truth, list)
    assert shown["upstream_task_id"] in {task["id"] for task in truth}


def test_a_task_that_fails_is_awaited_with_1(gateway: Gateway, client: httpx.Client) -> None:
    task_id = submit(client, f"{AT_ONCE} sandbox:fail")

    waited = gateway.run_cli("tasks", "wait", task_id)

    assert waited.returncode == 1
    assert "failed" in waited.stdout


def test_waiting_gives_up_after_its_time(gateway: Gateway, client: httpx.Client) -> None:
    task_id = submit(client, FOREVER_QUEUED)

    waited = gateway.run_cli("tasks", "wait", task_id, "--timeout", "1s")

    assert waited.returncode == 1
    assert waited.stderr.splitlines()[-1] == "The task is still queued."


def test_a_queued_task_is_cancelled_beside_the_server(
    gateway: Gateway, client: httpx.Client
) -> None:
    task_id = submit(client, FOREVER_QUEUED)

    shown = run_json(gateway, "tasks", "cancel", task_id)

    assert shown["state"] == "cancelled"
    assert wait_for_end(client, f"{PATH}/{task_id}")["status"] == "cancelled"
    again = gateway.run_cli("tasks", "cancel", task_id)
    assert again.returncode == 1
    assert "has ended already" in again.stderr
    assert client.get(f"{PATH}/{task_id}").status_code == 200


def test_a_task_is_cancelled_beside_a_sandbox_whatever_else_is_configured(
    gateway: Gateway, client: httpx.Client, tmp_path: Path, captured: Captured
) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        "upstreams: [{name: ark, base_url: 'http://127.0.0.1:9', credentials: [{env: GONE}]}]"
    )
    exported = {"ARK_API_KEY": "any", "ARK_BASE_URL": "http://127.0.0.1:9/api/v3"}

    for environ in (exported, {"GATEWAY_CONFIG": str(config)}):
        task_id = submit(client, FOREVER_QUEUED)
        done = run_program(
            ["tasks", "cancel", task_id, "--data-dir", str(gateway.data_dir)],
            captured=captured,
            environ=environ,
        )
        assert done.returncode == 0, done.stderr


def test_an_erased_prompt_is_gone_for_its_client_too(
    gateway: Gateway, client: httpx.Client
) -> None:
    task_id = submit(client, AT_ONCE)
    wait_for_end(client, f"{PATH}/{task_id}")

    assert run_json(gateway, "tasks", "erase", "--id", task_id) == {"erased": 1}

    deadline_s = time.monotonic() + REVOCATION_S_MAX
    while "sha256=" not in client.get(f"{PATH}/{task_id}").text:
        assert time.monotonic() < deadline_s


def test_a_revocation_reaches_the_server_within_a_second(gateway: Gateway) -> None:
    key = gateway.create_key("--name", "short-lived")
    with gateway.open_client(key) as client:
        assert client.get(PATH).status_code == 200

        assert gateway.run_cli("keys", "revoke", key[8:20]).returncode == 0

        deadline_s = time.monotonic() + REVOCATION_S_MAX
        while client.get(PATH).status_code != 401:
            assert time.monotonic() < deadline_s


def test_a_rotated_key_and_its_successor_both_work(gateway: Gateway) -> None:
    key = gateway.create_key("--name", "rotating")

    successor = run_json(gateway, "keys", "rotate", key[8:20], "--grace", "1h")

    gateway.captured.add_key(str(successor["key"]))
    for each in (key, str(successor["key"])):
        with gateway.open_client(each) as client:
            assert client.get(PATH).status_code == 200


def test_the_doctor_proves_a_credential_by_a_free_read(
    gateway: Gateway, tmp_path: Path, captured: Captured
) -> None:
    creates = gateway.read_truth()["creates"]
    environ = {"ARK_API_KEY": "any", "ARK_BASE_URL": f"{gateway.sandbox_url}/api/v3"}

    done = run_program(
        ["doctor", "--data-dir", str(tmp_path / "data")], captured=captured, environ=environ
    )

    assert done.returncode == 0, done.stdout
    assert "upstream ark, credential default" in done.stdout
    assert gateway.read_truth()["creates"] == creates


@pytest.mark.parametrize("by_file", [False, True], ids=["by environment", "by file"])
def test_the_doctor_checks_what_is_configured_and_not_the_trial_beside_it(
    gateway: Gateway,
    tmp_path: Path,
    captured: Captured,
    by_file: bool,  # noqa: FBT001 - a case
) -> None:
    closed = "http://127.0.0.1:9/api/v3"
    environ = {"ARK_API_KEY": "bogus", "ARK_BASE_URL": closed}
    options = []
    if by_file:
        upstream = f"{{name: ark, base_url: '{closed}', credentials: [{{env: K}}]}}"
        (tmp_path / "gateway.yaml").write_text(f"upstreams: [{upstream}]\n")
        options = ["--config", str(tmp_path / "gateway.yaml")]
        environ = {"K": "bogus"}
    arguments = ["doctor", "--format", "json", "--data-dir", str(gateway.data_dir), *options]
    with gateway.open_client() as client:
        submit(client, FOREVER_QUEUED)

    done = run_program(arguments, captured=captured, environ=environ)

    levels = {each["check"]: each["level"] for each in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert levels["upstream ark, credential default"] == "fail"
    assert not any("sandbox" in check for check in levels)
    assert levels["routes"] == "ok"  # the trial follows its tasks


def test_without_an_upstream_the_doctor_checks_the_trial_beside_it(gateway: Gateway) -> None:
    done = gateway.run_cli("doctor", "--format", "json")

    checks = [each["check"] for each in json.loads(done.stdout)["findings"]]
    assert "upstreams" not in checks
    assert "upstream sandbox, credential default" in checks


def test_a_bootstrap_key_works_from_the_first_start_on(
    start_gateway: StartGateway, captured: Captured
) -> None:
    key = run_program(["keys", "generate"], captured=captured).stdout.strip()
    captured.add_key(key)

    gateway = start_gateway("--sandbox", environ={"GATEWAY_BOOTSTRAP_KEY": key})

    with gateway.open_client(key) as client:
        assert client.get(PATH).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_BOOTSTRAP_KEY", "sg_live_canary4Zq8"),
        ("GATEWAY_AUTH__PEPPER", ""),
        ("GATEWAY_AUTH__PEPPER", "canary4Zq8"),
        ("GATEWAY_AUTH__PEPPER", "canary4Zq8-example-of-a-pepper"),
    ],
)
def test_a_start_with_a_weak_secret_is_refused(
    tmp_path: Path, captured: Captured, name: str, value: str
) -> None:
    refused = run_program(
        ["serve", "--sandbox", "--port", "0", "--data-dir", str(tmp_path)],
        captured=captured,
        environ={name: value},
    )

    assert refused.returncode == 2
    assert name in refused.stderr
    assert refused.stdout == ""
    assert "canary4Zq8" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_sandbox_alone_tells_where_it_is(tmp_path: Path) -> None:
    command = [*PROGRAM, "sandbox", "--port", "0", "--format", "json", "--data-dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=REPOSITORY, env=make_environment(), text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            assert httpx.get(f"{url}/_sandbox/truth", trust_env=False).json()["creates"] == 0
        finally:
            process.terminate()
    assert process.returncode == 0


def test_the_sandboxs_port_in_use_is_named(gateway: Gateway, captured: Captured) -> None:
    assert gateway.sandbox_url is not None
    port = gateway.sandbox_url.rpartition(":")[2]

    refused = run_program(
        ["sandbox", "--port", port, "--data-dir", str(gateway.data_dir / "other")],
        captured=captured,
    )

    assert refused.returncode == 2
    assert port in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_sandbox_on_a_folder_in_use_is_refused(gateway: Gateway, captured: Captured) -> None:
    refused = run_program(
        ["sandbox", "--port", "0", "--data-dir", str(gateway.data_dir)], captured=captured
    )

    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_a_terminal_gets_a_table_and_a_progress_bar(gateway: Gateway, client: httpx.Client) -> None:
    task_id = submit(client, "sandbox:queued=0 sandbox:run=120")  # longer than a command's start

    exit_code, waited = run_on_a_terminal(gateway, "tasks", "wait", task_id)
    _, listed = run_on_a_terminal(gateway, "tasks", "list")

    assert exit_code == 0
    assert "running" in waited
    assert BAR in waited
    assert COLOUR.search(waited)
    assert task_id in listed


def test_no_color_is_honoured(gateway: Gateway, client: httpx.Client) -> None:
    task_id = submit(client, "sandbox:queued=0 sandbox:run=30")

    _, waited = run_on_a_terminal(gateway, "tasks", "wait", task_id, environ={"NO_COLOR": "1"})

    assert BAR in waited
    assert not COLOUR.search(waited)


def test_no_color_is_honoured_by_the_log(gateway: Gateway) -> None:
    environ = {"GATEWAY_TELEMETRY__LOG_LEVEL": "info"}

    _, coloured = run_on_a_terminal(gateway, "keys", "create", environ=environ)
    _, plain = run_on_a_terminal(gateway, "keys", "create", environ={**environ, "NO_COLOR": "1"})

    assert "key.created" in coloured
    assert COLOUR.search(coloured)
    assert "key.created" in plain
    assert not COLOUR.search(plain)


def test_a_short_command_costs_little(gateway: Gateway, captured: Captured) -> None:
    def used_s() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    costs_s = []
    for _ in range(3):
        before_s = used_s()
        run_program(["keys", "list", "--data-dir", str(gateway.data_dir)], captured=captured)
        costs_s.append(used_s() - before_s)

    assert min(costs_s) < LIST_CPU_S_MAX
