"""What a request leaves behind: its id, its line, its counts."""

import io
import json
import re

import httpx

from gateway.app import create_metrics_app
from gateway.ports import Runtime
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import SURFACES, Keys, error_of, submit
from tests.support.listening import listening
from tests.support.waiting import eventually


async def test_a_request_id_is_taken_over_only_if_it_is_safe(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    for given in ("mine-1", "a" * 128):
        response = await client.get("/livez", headers={"X-Request-Id": given})
        assert response.headers["x-request-id"] == given
    for given in ("", "a" * 129, "a b", '"', keys.owner, "a/b"):
        response = await client.get("/livez", headers={"X-Request-Id": given})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_a_defect_is_told_in_fixed_words_and_logged_once(
    client: httpx.AsyncClient, upstream: FakeUpstream, log_stream: io.StringIO
) -> None:
    task_id = await submit(client)
    upstream.cancel_error = RuntimeError("internals-canary")

    response = await client.delete(f"{SURFACES[0]}/{task_id}", headers={"X-Request-Id": "one"})

    assert response.status_code == 500
    assert error_of(response)["code"] == "InternalServiceError"
    assert "internals-canary" not in response.text + log_stream.getvalue()
    await eventually(lambda: '"error.code":"InternalServiceError"' in log_stream.getvalue())
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    failures = [line for line in lines if line["event"] == "http.request_failed"]
    assert [(line["request_id"], line["error"]) for line in failures] == [("one", "RuntimeError")]
    assert "fake_upstream.py" in failures[0]["trace"]


async def test_each_request_is_one_line_without_secrets(
    client: httpx.AsyncClient, keys: Keys, log_stream: io.StringIO
) -> None:
    task_id = await submit(client)
    await eventually(lambda: '"POST"' in log_stream.getvalue())
    before = len(log_stream.getvalue().splitlines())
    await client.get(f"{SURFACES[0]}/{task_id}?canary=query-canary")
    await client.get(f"{SURFACES[0]}/{keys.owner}")
    await client.get("/no/path-canary", headers={"X-Canary": "header-canary"})
    await eventually(lambda: len(log_stream.getvalue().splitlines()) >= before + 3)

    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()[before:]]
    assert [line["event"] for line in lines] == ["http.request_finished"] * 3
    assert [line["http.route"] for line in lines] == [
        "/seedance/generations/{task_id}",
        "/seedance/generations/{task_id}",
        "unmatched",
    ]
    assert lines[0]["task_id"] == task_id
    assert lines[0]["http.response.status_code"] == 200
    assert lines[1]["error.code"] == "NotFound.Task"
    assert "canary" not in log_stream.getvalue()
    assert keys.owner not in log_stream.getvalue()
    assert "Paper boats" not in log_stream.getvalue()


async def test_labels_come_from_closed_sets_whatever_is_asked(
    client: httpx.AsyncClient, runtime: Runtime
) -> None:
    for number in range(50):
        await client.request(f"M{number}", f"/p{number}")
        await client.get(f"{SURFACES[0]}/cgt-{number}")

    assert len(runtime.metrics.http_requests.values) <= 4
    assert len(runtime.metrics.rejections.values) <= 3


async def test_metrics_have_a_listener_of_their_own(
    client: httpx.AsyncClient, runtime: Runtime
) -> None:
    await client.get("/livez")
    async with (
        listening(create_metrics_app(runtime)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as scraper,
    ):
        metrics = await scraper.get("/metrics")
        alive = await scraper.get("/livez")
        missing = await scraper.get("/seedance/generations")
        posted = await scraper.post("/metrics")

    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'gateway_http_requests_total{method="GET",route="/livez",status="200"} 1.0' in (
        metrics.text
    )
    assert alive.json() == {"status": "ok"}
    assert error_of(missing)["code"] == "NotFound"
    assert posted.headers["allow"] == "GET, HEAD"
    assert (await client.get("/metrics")).status_code == 404


async def test_readiness_names_its_checks_when_asked(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json() == {"status": "ok"}
    assert (await client.get("/healthz?verbose")).json() == {
        "status": "ok",
        "checks": {
            "draining": "ok",
            "database": "ok",
            "writes": "ok",
            "submits": "ok",
            "ledger": "not audited yet",
        },
    }
