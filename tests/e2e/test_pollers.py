"""Any number of clients polling a task costs the upstream what the observer's schedule costs."""

import threading
import time

import pytest

from gateway.cli.simulated import SANDBOX_TIME_SCALE
from tests.e2e.conftest import StartGateway
from tests.support.published import make_body

PATH = "/seedance/generations"
CLIENTS = 64
READS_PER_THREE_MINUTES_MAX = 12


@pytest.mark.parametrize(
    "duration_s",
    [pytest.param(8, id="8s"), pytest.param(60, id="60s", marks=pytest.mark.long)],
)
def test_64_clients_polling_one_task_cost_the_upstream_next_to_nothing(
    start_gateway: StartGateway, duration_s: float
) -> None:
    gateway = start_gateway(name="polled")
    with gateway.open_client() as client:
        words = "sandbox:queued=0 sandbox:run=100000"
        task_id = client.post(PATH, json=make_body(words)).json()["id"]
    deadline_s = time.monotonic() + duration_s
    counts = [0] * CLIENTS
    failures: list[object] = []

    def poll(number: int) -> None:
        with gateway.open_client() as client:
            while time.monotonic() < deadline_s:
                answer = client.get(f"{PATH}/{task_id}")
                counts[number] += 1
                if answer.status_code != 200:
                    failures.append(answer.text)
                    return
                time.sleep(0.05)

    threads = [threading.Thread(target=poll, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reads = gateway.read_truth()["reads"]
    assert isinstance(reads, dict)

    assert not failures
    assert min(counts) > 0
    assert sum(counts) > 20 * CLIENTS
    minutes = duration_s * SANDBOX_TIME_SCALE / 60  # sandbox and observer run faster than time
    assert 0 < reads["get"] + reads["list"] <= READS_PER_THREE_MINUTES_MAX * minutes / 3
    print(f"{sum(counts)} polls by {CLIENTS} clients, {reads} at the upstream")
