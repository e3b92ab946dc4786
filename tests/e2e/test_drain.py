"""Stopping under load: no request whose head the application has seen goes unanswered."""

import json
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import StartGateway
from tests.support.gateway import Gateway
from tests.support.published import FOREVER_QUEUED, make_body

PATH = "/seedance/generations"
CONNECTIONS = 24


@dataclass
class Load:
    """What one connection sent and got, by request id."""

    answered: set[str] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)


def read_answer(stream: BinaryIO) -> tuple[int, dict[str, str]] | None:
    """Return status and headers of one complete answer, None at the end of the stream."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        return None
    headers: dict[str, str] = {}
    while True:
        header = stream.readline()
        if header == b"\r\n":
            break
        if not header.endswith(b"\r\n"):
            return None
        name, _, value = header.decode().partition(":")
        headers[name.lower()] = value.strip()
    length = int(headers["content-length"])
    body = stream.read(length)
    return (int(line.split()[1]), headers) if len(body) == length else None


def send_requests(gateway: Gateway, number: int, load: Load, stop: threading.Event) -> None:
    """Send submits and reads, one after the other, until the server closes."""
    where = urlsplit(gateway.url)
    body = json.dumps(make_body("sandbox:slow=0.3 sandbox:run=1")).encode()
    count = 0
    while not stop.is_set():
        try:
            with (
                socket.create_connection((where.hostname, where.port), timeout=30) as connection,
                connection.makefile("rb") as stream,
            ):
                while not stop.is_set():
                    count += 1
                    request_id = f"drain-{number}-{count}"
                    is_submit = (number + count) % 3 == 0
                    line = f"POST {PATH}" if is_submit else f"GET {PATH}"
                    sent = body if is_submit else b""
                    head = (
                        f"{line} HTTP/1.1\r\nHost: {where.netloc}\r\nX-Request-Id: {request_id}\r\n"
                        f"Authorization: Bearer {gateway.key}\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n\r\n"
                    )
                    connection.sendall(head.encode() + sent)
                    answer = read_answer(stream)
                    if answer is None:
                        break
                    load.answered.add(request_id)
                    load.statuses.append(answer[0])
                    if answer[1].get("connection") == "close":
                        break
        except ConnectionRefusedError:
            return
        except OSError:
            continue


@pytest.mark.parametrize("round_number", range(2))
def test_a_stop_under_load_answers_every_request_that_was_seen(
    start_gateway: StartGateway, round_number: int
) -> None:
    gateway = start_gateway(name=f"drain{round_number}")
    stop = threading.Event()
    loads = [Load() for _ in range(CONNECTIONS)]
    threads = [
        threading.Thread(target=send_requests, args=(gateway, number, load, stop))
        for number, load in enumerate(loads)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1.5 + 0.2 * round_number)

    gateway.process.send_signal(signal.SIGTERM)
    exit_code = gateway.process.wait(60)
    stop.set()
    for thread in threads:
        thread.join()

    lines = [json.loads(line) for line in gateway.log_path.read_text().splitlines()]
    seen = {
        line["request_id"]
        for line in lines
        if line["event"] == "http.request_finished" and line["request_id"].startswith("drain-")
    }
    answered = set().union(*(load.answered for load in loads))
    statuses = {status for load in loads for status in load.statuses}
    assert exit_code == 0
    assert len(answered) > CONNECTIONS
    assert seen - answered == set()
    assert statuses <= {200, 503}
    assert lines[-1]["event"] == "server.stopped"


def test_a_submit_in_progress_ends_before_the_process_does(start_gateway: StartGateway) -> None:
    gateway = start_gateway(name="submit")
    answers: list[int] = []

    def submit() -> None:
        with gateway.open_client() as client:
            answers.append(client.post(PATH, json=make_body("sandbox:slow=2")).status_code)

    thread = threading.Thread(target=submit)
    thread.start()
    deadline_s = time.monotonic() + 10
    with gateway.open_client() as client:
        while not client.get(PATH).json()["total"]:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.send_signal(signal.SIGTERM)
    exit_code = gateway.process.wait(60)
    thread.join()

    assert answers == [200]
    assert exit_code == 0
    again = start_gateway(name="submit")
    with again.open_client() as client:
        assert [item["status"] for item in client.get(PATH).json()["items"]] != []
    assert again.read_truth()["creates"] == 1


def test_a_request_whose_head_ends_during_the_stop_is_answered_too(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(name="late")
    with gateway.open_client() as client:
        task_id = client.post(PATH, json=make_body(FOREVER_QUEUED)).json()["id"]
    gateway.set_faults({"operation": "delete", "at": "before_read", "action": "delay", "ms": 4000})
    where = urlsplit(gateway.url)
    head = (
        f"DELETE {PATH}/{task_id} HTTP/1.1\r\nHost: {where.netloc}\r\n"
        f"Authorization: Bearer {gateway.key}\r\n\r\n"
    ).encode()
    with (
        socket.create_connection((where.hostname, where.port), timeout=30) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(head[:40])
        time.sleep(0.2)
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        connection.sendall(head[40:])
        answer = read_answer(stream)
    exit_code = gateway.process.wait(60)

    assert answer is not None
    assert answer[0] == 200
    assert exit_code == 0
