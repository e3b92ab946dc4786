"""What a real program tells real receivers, also when it is killed while it tells it."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import run_gateway, wait_for_end
from tests.support.published import make_body

PATH = "/seedance/generations"
PATIENCE_S = 60.0


@dataclass
class Received:
    """What came to a receiver; while `may_answer` is clear, nothing is answered."""

    url: str
    messages: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    may_answer: threading.Event = field(default_factory=threading.Event)

    @property
    def ids(self) -> list[str]:
        return [message_id for message_id, _ in self.messages]

    @property
    def statuses(self) -> list[object]:
        return [message["status"] for _, message in self.messages]


@contextmanager
def run_receiver() -> Iterator[Received]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.messages.append((self.headers["webhook-id"], json.loads(body)))
            received.may_answer.wait(PATIENCE_S)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received = Received(f"http://127.0.0.1:{server.server_port}/hook")
    received.may_answer.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        received.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


def wait_until(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def environ_of(sink: Received | None = None) -> dict[str, str]:
    environ = {"GATEWAY_WEBHOOKS__ALLOW_PRIVATE": '["127.0.0.0/8"]'}
    return environ if sink is None else {**environ, "GATEWAY_WEBHOOKS__USAGE_URL": sink.url}


def test_clients_and_finance_are_told_and_the_report_is_what_the_upstream_made(
    start_gateway: StartGateway,
) -> None:
    with run_receiver() as receiver, run_receiver() as sink:
        gateway = start_gateway(environ=environ_of(sink))
        with gateway.open_client() as client:
            body = make_body(callback_url=f"{receiver.url}?token=canary-query")
            ids = [client.post(PATH, json=body).raise_for_status().json()["id"] for _ in range(3)]
            tasks = [wait_for_end(client, f"{PATH}/{task_id}") for task_id in ids]
        wait_until(lambda: receiver.statuses.count("succeeded") == 3)
        wait_until(lambda: len(sink.messages) == 3)
        done = gateway.run_cli("usage", "report", "--per-task", "--format", "json")
        listed = gateway.run_cli("webhooks", "list", "--state", "delivered", "--format", "json")
        truth = gateway.read_truth()["tasks"]

    for task_id in ids:
        told = [message["status"] for _, message in receiver.messages if message["id"] == task_id]
        assert told[0] == "queued"
        assert told[-1] == "succeeded"
        order = ["queued", "running", "succeeded"]
        assert [status for status in order if status in told] == told
    assert len(set(receiver.ids)) == len(receiver.ids)
    rows = json.loads(done.stdout)["rows"]
    assert isinstance(truth, list)
    tokens = {task["id"]: task["completion_tokens"] for task in truth}
    assert {row["upstream_task_id"]: row["tokens"] for row in rows} == tokens
    bills = {task["id"]: task["gateway"] for task in tasks}
    for row in rows:
        bill = bills[row["task_id"]]
        assert isinstance(bill, dict)
        assert row["cost_micros"] == bill["cost_micros"]
        assert row["price_version"] == bill["price_version"]
    assert sorted(str(event["subject"]) for _, event in sink.messages) == sorted(ids)
    assert len(json.loads(listed.stdout)) == len(receiver.messages) + 3
    assert "canary-query" not in listed.stdout


@pytest.mark.long
def test_a_kill_while_a_receiver_is_being_told_tells_it_again_under_the_same_id(
    tmp_path: Path, captured: Captured
) -> None:
    environ = {**environ_of(), "GATEWAY_WEBHOOKS__TIMEOUT_S": "5"}
    with run_receiver() as receiver:
        receiver.may_answer.clear()
        with run_gateway(tmp_path / "data", captured, environ=environ) as gateway:
            with gateway.open_client() as client:
                client.post(PATH, json=make_body(callback_url=receiver.url)).raise_for_status()
            wait_until(lambda: receiver.messages)
            gateway.process.kill()
            gateway.process.wait()
        receiver.may_answer.set()
        with run_gateway(tmp_path / "data", captured, environ=environ) as gateway:
            wait_until(lambda: "succeeded" in receiver.statuses)

    assert receiver.ids.count(receiver.ids[0]) == 2
    assert receiver.messages[0] == receiver.messages[1]
    assert len(set(receiver.ids)) == len(receiver.ids) - 1
