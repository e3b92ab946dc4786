"""Creates that take long, answers that are lost, clients that leave."""

import json
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.conftest import StartGateway
from tests.support.gateway import Gateway, wait_for_end
from tests.support.published import make_body

PATH = "/seedance/generations"
ARK = "/api/v3/contents/generations/tasks"


def create_count(gateway: Gateway) -> int:
    creates = gateway.read_truth()["creates"]
    assert isinstance(creates, int)
    return creates


def wait_until(is_true: Callable[[], bool], limit_s: float = 30.0) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("path", [PATH, ARK])
def test_the_vendors_slow_400_reaches_the_client_that_waits(
    client: httpx.Client, path: str
) -> None:
    answer = client.post(path, json=make_body("sandbox:slow-400=1.5"))

    assert answer.status_code == 400
    assert answer.json()["error"]["code"].startswith("Invalid")
    assert "timeout while fetching resource" in answer.json()["error"]["message"]
    assert answer.elapsed.total_seconds() > 1.4


@pytest.mark.long
def test_the_vendors_400_after_45_seconds_reaches_the_client_that_waits(
    client: httpx.Client,
) -> None:
    answer = client.post(PATH, json=make_body("sandbox:slow-400"), timeout=60)

    assert answer.status_code == 400
    assert answer.elapsed.total_seconds() > 44


def test_after_the_clients_patience_the_answer_reaches_the_task(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(environ={"GATEWAY_SUBMIT__CLIENT_WAIT_S": "0.3"}, name="slow")
    with gateway.open_client() as client:
        accepted = client.post(PATH, json=make_body("sandbox:slow=1.5 sandbox:run=1"))
        refused = client.post(PATH, json=make_body("sandbox:slow-400=1.5"))
        waiting = client.get(f"{PATH}/{accepted.json()['id']}").json()
        done = wait_for_end(client, f"{PATH}/{accepted.json()['id']}")
        failed = wait_for_end(client, f"{PATH}/{refused.json()['id']}")

    assert accepted.status_code == refused.status_code == 200
    assert waiting["status"] == "queued"
    assert done["status"] == "succeeded"
    assert failed["status"] == "failed"
    error = failed["error"]
    assert isinstance(error, dict)
    assert "timeout while fetching resource" in error["message"]
    assert create_count(gateway) == 1


def test_a_client_that_leaves_changes_nothing(gateway: Gateway, client: httpx.Client) -> None:
    before = client.get(PATH).json()["total"]
    body = json.dumps(make_body("sandbox:slow=1 sandbox:run=1")).encode()
    where = urlsplit(gateway.url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {gateway.key}"
            f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        assert wait_until(lambda: client.get(PATH).json()["total"] == before + 1)

    left = client.get(PATH, params={"page_size": 1}).json()["items"][0]
    assert wait_for_end(client, f"{PATH}/{left['id']}")["status"] == "succeeded"


def test_a_lost_answer_is_an_id_and_no_second_paid_post(start_gateway: StartGateway) -> None:
    gateway = start_gateway(name="lost")
    gateway.set_faults({"operation": "create", "at": "after_create", "action": "drop"})
    with gateway.open_client() as client:
        answer = client.post(PATH, json=make_body())
        status = client.get(f"{PATH}/{answer.json()['id']}").json()
        refusal = client.delete(f"{PATH}/{answer.json()['id']}")

    assert answer.status_code == 200
    assert status["status"] == "queued"
    assert refusal.status_code == 409
    assert refusal.json()["error"]["code"] == "InvalidAction.SubmissionUnconfirmed"
    assert int(refusal.headers["Retry-After"]) > 0
    assert create_count(gateway) == 1
    assert gateway.count("gateway_task_transitions_total", to="unknown") == 1


def test_an_upstream_error_after_the_create_is_not_repeated(start_gateway: StartGateway) -> None:
    gateway = start_gateway(name="error")
    gateway.set_faults(
        {"operation": "create", "at": "after_create", "action": "error", "status": 500}
    )
    with gateway.open_client() as client:
        answer = client.post(ARK, json=make_body())

    assert answer.status_code == 200
    assert create_count(gateway) == 1


def test_a_task_whose_answer_was_lost_outlives_a_kill_and_is_found(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(name="killed")
    gateway.set_faults({"operation": "create", "at": "after_create", "action": "drop", "times": 1})
    with gateway.open_client() as client:
        lost = client.post(PATH, json=make_body()).json()["id"]
        kept = client.post(PATH, json=make_body("sandbox:queued=0 sandbox:run=60")).json()["id"]
    gateway.process.kill()
    gateway.process.wait()

    again = start_gateway(name="killed")
    with again.open_client() as client:
        assert wait_for_end(client, f"{PATH}/{lost}")["status"] == "succeeded"
        assert wait_for_end(client, f"{PATH}/{kept}")["status"] == "succeeded"
    assert create_count(again) == 2
