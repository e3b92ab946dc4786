"""A provider that really calls back: what that saves, over real sockets and in real processes."""

import json
import socket
import time
from pathlib import Path

from tests.support.captured import Captured
from tests.support.gateway import ENDED, run_gateway
from tests.support.programs import BESIDE_IT, run_sandbox_program
from tests.support.published import make_body

PATH = "/seedance/generations"
TASKS = 5
POLLS = 200
READS_PER_TASK_MAX = 3


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_tasks_that_call_back_cost_three_reads_at_most_however_often_clients_poll(
    tmp_path: Path, captured: Captured
) -> None:
    port = find_free_port()
    with run_sandbox_program(tmp_path / "provider", captured) as sandbox_url:
        environ = {**BESIDE_IT, "GATEWAY_SERVER__PUBLIC_URL": f"http://127.0.0.1:{port}"}
        with (
            run_gateway(
                tmp_path / "data", captured, ("--sandbox-url", sandbox_url), environ, port=port
            ) as gateway,
            gateway.open_client() as client,
        ):
            ids = [client.post(PATH, json=make_body()).json()["id"] for _ in range(TASKS - 1)]
            # Like a real one: it is queued, runs and ends while clients look on.
            slow = make_body("sandbox:queued=20 sandbox:run=60")
            ids.append(client.post(PATH, json=slow).json()["id"])
            statuses: dict[str, str] = {}
            polls = 0
            deadline_s = time.monotonic() + 60
            while polls < POLLS or not set(statuses.values()) <= ENDED:
                assert time.monotonic() < deadline_s, statuses
                for task_id in ids:
                    answer = client.get(f"{PATH}/{task_id}")
                    statuses[task_id] = answer.raise_for_status().json()["status"]
                    polls += 1
                time.sleep(0.05)
            truth = gateway.read_truth()
            news = gateway.count("gateway_callbacks_total", result="news")
            log = gateway.log_path.read_text()

    assert set(statuses.values()) == {"succeeded"}
    reads = truth["reads"]
    assert isinstance(reads, dict)
    assert 0 < reads["get"] <= READS_PER_TASK_MAX * TASKS
    assert news > 0
    lines = [json.loads(line) for line in log.splitlines() if "/callbacks/" in line]
    assert {line["http.route"] for line in lines} == {"/callbacks/{token}"}
    assert {line["http.response.status_code"] for line in lines} == {204}
    print(f"{polls} polls, {reads} reads at the provider, {len(lines)} callbacks")
