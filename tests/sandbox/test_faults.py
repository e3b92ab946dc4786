"""Faults at every point of a request, seen from the other end of the socket."""

import asyncio
from time import monotonic

import pytest

from tests.sandbox.conftest import Opener
from tests.sandbox.support import ARK, Upstream, body, raw_request, send_raw

BEFORE_TASK = ("before_read", "after_headers", "mid_body", "before_create")
AFTER_TASK = ("after_create", "mid_answer", "after_answer")


def rule(operation: str, at: str, action: str, **fields: object) -> dict[str, object]:
    return {"operation": operation, "at": at, "action": action, **fields}


@pytest.mark.parametrize("action", ["drop", "reset"])
@pytest.mark.parametrize("at", BEFORE_TASK + AFTER_TASK)
async def test_ends_the_connection_at_every_point_of_a_create(
    upstream: Upstream, at: str, action: str
) -> None:
    await upstream.create()
    await upstream.set_faults(rule("create", at, action))

    answer = await send_raw(upstream.url, raw_request("POST", ARK, body(), close=False))

    assert answer.was_reset is (action == "reset")
    if at == "mid_answer":
        assert answer.status == 200
        assert b"content-length: 33" in answer.received
        assert len(answer.payload) == 16
    elif at == "after_answer":
        assert len(answer.payload) == 33
    else:
        assert answer.received == b""
    truth = await upstream.truth()
    assert truth["creates"] == 1 + (at in AFTER_TASK)
    assert truth["faults"][0]["hits"] == 1


@pytest.mark.parametrize("operation", ["get", "list", "delete"])
@pytest.mark.parametrize("action", ["drop", "reset"])
async def test_ends_the_connection_of_other_operations(
    upstream: Upstream, operation: str, action: str
) -> None:
    task_id = await upstream.create()
    await upstream.set_faults(rule(operation, "after_create", action))
    method = "DELETE" if operation == "delete" else "GET"
    path = ARK if operation == "list" else f"{ARK}/{task_id}"

    answer = await send_raw(upstream.url, raw_request(method, path))

    assert (answer.received, answer.was_reset) == (b"", action == "reset")
    (task,) = (await upstream.truth())["tasks"]
    assert task["status"] == ("cancelled" if operation == "delete" else "queued")


async def test_cuts_a_film_in_the_middle(upstream: Upstream) -> None:
    shown = await upstream.finish(resolution="480p", ratio="16:9")
    path = shown["content"]["video_url"].removeprefix(upstream.url)
    await upstream.set_faults(rule("video", "mid_answer", "drop"))
    request = raw_request("GET", path).replace(b"Authorization: Bearer k\r\n", b"")

    answer = await send_raw(upstream.url, request)

    assert answer.status == 200
    length = int(answer.received.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(answer.payload) == length // 2


@pytest.mark.parametrize("at", BEFORE_TASK + AFTER_TASK)
async def test_delays_at_every_point(upstream: Upstream, at: str) -> None:
    await upstream.set_faults(rule("create", at, "delay", ms=150))

    started_s = monotonic()
    answer = await send_raw(upstream.url, raw_request("POST", ARK, body()))

    assert monotonic() - started_s >= 0.15
    assert answer.status == 200
    assert len(answer.payload) == 33


@pytest.mark.parametrize("at", [*BEFORE_TASK, "after_create"])
async def test_answers_an_error_at_every_point(upstream: Upstream, at: str) -> None:
    await upstream.set_faults(rule("create", at, "error", status=502, body="<h1>Bad Gateway</h1>"))

    answer = await upstream.post(body())

    assert (answer.status_code, answer.text) == (502, "<h1>Bad Gateway</h1>")
    assert answer.headers["content-type"].startswith("text/html")
    assert (await upstream.truth())["creates"] == (at == "after_create")


async def test_an_error_has_the_vendors_body_unless_another_is_given(upstream: Upstream) -> None:
    await upstream.set_faults(
        rule("create", "before_create", "error", times=1),
        rule("create", "before_create", "error", status=503, body={"odd": True}),
    )

    first = await upstream.post(body())
    second = await upstream.post(body())

    assert first.status_code == 500
    assert first.json()["error"]["code"] == "InternalServiceError"
    assert (second.status_code, second.json()) == (503, {"odd": True})


@pytest.mark.parametrize("at", ["before_create", "after_create"])
async def test_makes_a_task_twice(upstream: Upstream, at: str) -> None:
    await upstream.set_faults(rule("create", at, "duplicate"))

    answer = await upstream.post(body())
    truth = await upstream.truth()

    assert answer.status_code == 200
    assert truth["creates"] == 2
    assert answer.json()["id"] == truth["tasks"][0]["id"]
    assert truth["tasks"][0]["request_hash"] == truth["tasks"][1]["request_hash"]


@pytest.mark.parametrize("operation", ["create", "get"])
async def test_sends_an_answer_twice(upstream: Upstream, operation: str) -> None:
    task_id = await upstream.create()
    await upstream.set_faults(rule(operation, "after_answer", "duplicate"))
    request = (
        raw_request("POST", ARK, body())
        if operation == "create"
        else raw_request("GET", f"{ARK}/{task_id}")
    )

    answer = await send_raw(upstream.url, request)

    half = len(answer.received) // 2
    assert answer.received[:half] == answer.received[half:]
    assert answer.status == 200
    assert (await upstream.truth())["creates"] == 1 + (operation == "create")


async def test_a_rule_hits_as_often_as_it_says(upstream: Upstream) -> None:
    await upstream.set_faults(rule("create", "before_create", "error", times=2))

    answers = [(await upstream.post(body())).status_code for _ in range(4)]

    assert answers == [500, 500, 200, 200]


async def test_a_share_hits_the_same_requests_for_the_same_seed(open_upstream: Opener) -> None:
    seen = []
    for _ in range(2):
        async with open_upstream(seed=3) as upstream:
            await upstream.set_faults(rule("list", "before_read", "error", share=0.5))
            answers = [(await upstream.http.get(ARK)).status_code for _ in range(40)]
        seen.append(answers)

    assert seen[0] == seen[1]
    assert 8 <= seen[0].count(500) <= 32


async def test_new_rules_replace_the_old(upstream: Upstream) -> None:
    await upstream.set_faults(rule("create", "before_create", "error"))
    await upstream.set_faults()

    assert (await upstream.post(body())).status_code == 200


async def test_a_late_create_is_made_after_its_client_has_left(upstream: Upstream) -> None:
    await upstream.set_faults(rule("create", "before_create", "delay", ms=200))

    await send_raw(upstream.url, raw_request("POST", ARK, body()), then_wait=False)
    before = (await upstream.truth())["creates"]
    await asyncio.sleep(0.2)
    for _ in range(200):
        if (await upstream.truth())["creates"]:
            break
        await asyncio.sleep(0.01)

    assert before == 0
    assert (await upstream.truth())["creates"] == 1


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"rules": {}},
        {"rules": [5]},
        {"rules": [rule("create", "nowhere", "drop")]},
        {"rules": [rule("creat", "before_read", "drop")]},
        {"rules": [rule("create", "before_read", "explode")]},
        {"rules": [rule("create", "before_read", "drop", often=1)]},
        {"rules": [rule("create", "before_read", "drop", share=2)]},
        {"rules": [rule("create", "before_read", "drop", times="1")]},
        {"rules": [rule("create", "mid_answer", "error")]},
        {"rules": [rule("create", "before_read", "error", status=700)]},
        {"rules": [rule("create", "before_read", "duplicate")]},
        {"rules": [rule("get", "after_create", "duplicate")]},
        {"rules": [rule("create", "before_read", "drop")] * 101},
    ],
)
async def test_refuses_rules_that_can_not_be_meant(upstream: Upstream, payload: object) -> None:
    answer = await upstream.http.put("/_sandbox/faults", json=payload)

    assert answer.status_code == 400
    assert "rule" in answer.json()["error"]


@pytest.mark.parametrize(
    "payload", [{}, {"advance_s": -1}, {"scale": 0}, {"scale": "2"}, {"speed": 2}, {"scale": True}]
)
async def test_refuses_a_clock_that_can_not_be_meant(upstream: Upstream, payload: object) -> None:
    answer = await upstream.http.put("/_sandbox/clock", json=payload)

    assert answer.status_code == 400
    assert (await upstream.http.get("/_sandbox/clock")).status_code == 404
