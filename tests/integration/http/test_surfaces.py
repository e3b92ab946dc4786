"""Both surfaces over real sockets, on a real store, with an upstream that obeys the test."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.app import create_app, create_metrics_app
from gateway.domain.tasks import Observation, TaskError
from gateway.errors import UpstreamAccount, UpstreamRejected
from gateway.http.endpoints import ENDPOINTS, TASK_ENDPOINTS
from gateway.ports import Runtime
from gateway.services import admin
from gateway.services.observing import observe_due
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.listening import SERVERS, listening

MODEL = "doubao-seedance-1-0-pro-250528"
SURFACES = (
    "/seedance/generations",
    "/v1/seedance/generations",
    "/api/v3/contents/generations/tasks",
)
BODY = {
    "model": MODEL,
    "content": [
        {"type": "text", "text": "Paper boats drift --resolution 480p --duration 5"},
        {"type": "image_url", "image_url": {"url": "https://img.example/boat.png"}},
    ],
}


@dataclass
class Keys:
    owner: str
    stranger: str
    revoked: str


@pytest.fixture
async def keys(runtime: Runtime) -> Keys:
    await admin.create_project(runtime, "test", "other")
    owner = await admin.create_key(runtime, "test", "default")
    stranger = await admin.create_key(runtime, "test", "other")
    revoked = await admin.create_key(runtime, "test", "default")
    await admin.revoke_key(runtime, "test", revoked.record.id)
    return Keys(owner.key, stranger.key, revoked.key)


@pytest.fixture
async def port(runtime: Runtime, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with listening(create_app(runtime), getattr(request, "param", SERVERS[0])) as number:
        yield number


@pytest.fixture
async def client(port: int, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {keys.owner}"},
        trust_env=False,
    ) as opened:
        yield opened


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "param", "type"]
    request_id = response.headers["x-request-id"]
    assert body["error"]["message"].endswith(f". Request id: {request_id}")
    error: dict[str, Any] = body["error"]
    return error


async def submit(client: httpx.AsyncClient, surface: str = SURFACES[0]) -> str:
    response = await client.post(surface, json=BODY)
    assert response.status_code == 200, response.text
    task_id: str = response.json()["id"]
    return task_id


async def finish(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> None:
    """Let the observer see every task of the upstream succeed."""
    for upstream_task_id in upstream.shown:
        upstream.shown[upstream_task_id] = Observation(
            "succeeded",
            {
                "seed": 7,
                "content": {"video_url": "https://videos.example/v.mp4?sig=1"},
                "usage": {"completion_tokens": 49005, "total_tokens": 49005},
                "id": "up-secret",
                "draft_task_id": "cgt-20261122150102-abcde",
            },
        )
    clock.advance(120)
    await observe_due(runtime, upstream, "default")


@pytest.mark.parametrize("port", SERVERS, indirect=True)
@pytest.mark.parametrize("surface", SURFACES)
async def test_a_task_is_submitted_read_listed_and_deleted(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    surface: str,
) -> None:
    submitted = await client.post(surface, json=BODY)
    task_id = submitted.json()["id"]
    queued = await client.get(f"{surface}/{task_id}")
    await finish(runtime, upstream, clock)
    succeeded = await client.get(f"{surface}/{task_id}")
    listed = await client.get(surface)
    deleted = await client.delete(f"{surface}/{task_id}")
    gone = await client.get(f"{surface}/{task_id}")

    is_ark = surface.startswith("/api")
    assert set(submitted.json()) == ({"id"} if is_ark else {"id", "message"})
    assert queued.json()["status"] == "queued"
    task = succeeded.json()
    fields = ["id", "model", "status", "content", "usage", "created_at", "updated_at", "seed"]
    assert list(task) == fields + ([] if is_ark else ["message", "request"])
    assert task["model"] == MODEL
    assert task["created_at"] == 1_795_330_862
    assert "up-" not in succeeded.text
    assert listed.json()["total"] == 1
    assert list(listed.json()["items"][0]) == fields
    assert (deleted.status_code, deleted.json()) == (200, {})
    assert gone.status_code == 404


async def test_the_seedance_surface_echoes_the_normalized_request(
    client: httpx.AsyncClient,
) -> None:
    task_id = await submit(client)

    request = (await client.get(f"{SURFACES[0]}/{task_id}")).json()["request"]

    assert request["model"] == MODEL
    assert request["content"][0]["text"] == "Paper boats drift"
    assert request["content"][1]["image_url"]["url"] == "https://img.example/boat.png"


async def test_a_failed_task_shows_the_vendors_error(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await submit(client)
    upstream.shown["up-1"] = Observation(
        "failed", {}, TaskError("OutputVideoSensitiveContentDetected", "No.")
    )
    clock.advance(120)
    await observe_due(runtime, upstream, "default")

    task = (await client.get(f"{SURFACES[2]}/{task_id}")).json()

    assert task["status"] == "failed"
    assert task["error"] == {"code": "OutputVideoSensitiveContentDetected", "message": "No."}


async def test_an_unknown_and_a_foreign_task_are_told_in_the_same_words(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    foreign_id = await submit(client)
    unknown_id = "cgt-20261122150102-" + "a" * 20
    answers = []
    for task_id in (foreign_id, unknown_id):
        response = await client.get(
            f"{SURFACES[0]}/{task_id}", headers={"Authorization": f"Bearer {keys.stranger}"}
        )
        text = response.text.replace(task_id, "ID")
        answers.append((response.status_code, re.sub(r"Request id: \w+", "", text)))

    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_a_malformed_id_is_never_found(client: httpx.AsyncClient) -> None:
    for malformed in ("x", "cgt-1", "..", "%2e%2e", "a%2fb", "a b", "%00", "é", "x" * 300):
        for method in ("GET", "DELETE"):
            response = await client.request(method, f"{SURFACES[0]}/{malformed}")

            assert response.status_code in {400, 404, 405}, malformed
            error_of(response)


async def test_every_route_but_the_listed_ones_needs_a_key(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    headers: list[dict[str, str]] = [
        {"Authorization": ""},
        {"Authorization": "Bearer sg_live_nonsense"},
        {"Authorization": "Basic abc"},
        {"Authorization": f"Bearer {keys.revoked}"},
    ]
    bodies = set()
    for endpoint in ENDPOINTS:
        path = endpoint.path.format(task_id="cgt-20261122150102-" + "a" * 20, asset="docs.js")
        for header in headers:
            response = await client.request(endpoint.method, path, headers=header)
            if endpoint.is_public:
                assert response.status_code == 200, path
            else:
                assert response.status_code == 401, path
                assert response.headers["www-authenticate"] == "Bearer"
                bodies.add(re.sub(r"Request id: \w+", "", json.dumps(error_of(response))))

    assert len(bodies) == 1
    assert [e.path for e in ENDPOINTS if e.is_public] == [
        "/livez",
        "/readyz",
        "/healthz",
        "/openapi.json",
        "/docs",
        "/docs/{asset}",
    ]


async def test_an_unlisted_path_needs_a_key_before_it_is_told_to_be_none(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/admin", headers={"Authorization": ""})).status_code == 401
    assert error_of(await client.get("/admin"))["code"] == "NotFound"


async def test_a_bare_key_is_taken_too(client: httpx.AsyncClient, keys: Keys) -> None:
    response = await client.get(SURFACES[0], headers={"Authorization": keys.owner})

    assert response.status_code == 200


async def test_wrong_methods_and_paths_are_answered_in_json(client: httpx.AsyncClient) -> None:
    task_id = await submit(client)
    cancel = await client.post(f"{SURFACES[2]}/{task_id}/cancel")
    slash = await client.get(f"{SURFACES[0]}/")
    put = await client.put(f"{SURFACES[0]}/{task_id}", json={})
    post = await client.post(f"{SURFACES[0]}/{task_id}", json={})
    options = await client.options(SURFACES[0])

    assert [r.status_code for r in (cancel, slash, put, post, options)] == [404, 404, 405, 405, 405]
    for response in (cancel, slash, put, post, options):
        error_of(response)
    assert put.headers["allow"] == "DELETE, GET, HEAD, POST"
    assert post.headers["allow"] == "DELETE, GET, HEAD"


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    task_id = await submit(client)
    for path in (f"{SURFACES[0]}/{task_id}", SURFACES[2], "/livez", "/docs"):
        get, head = await client.get(path), await client.head(path)

        assert head.content == b""
        assert head.status_code == get.status_code == 200
        assert head.headers["content-length"] == str(len(get.content))
        assert head.headers.get("etag") == get.headers.get("etag")


async def test_nothing_is_sent_again_to_a_client_that_has_it(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    path = f"{SURFACES[0]}/{await submit(client)}"
    etag = (await client.get(path)).headers["etag"]

    for condition in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        response = await client.get(path, headers={"If-None-Match": condition})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert response.headers["cache-control"] == "private, no-cache"
        assert "content-type" not in response.headers
    await finish(runtime, upstream, clock)
    changed = await client.get(path, headers={"If-None-Match": etag})

    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_a_waiting_read_answers_at_the_next_change(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    path = f"{SURFACES[0]}/{await submit(client)}"
    etag = (await client.get(path)).headers["etag"]
    async with asyncio.TaskGroup() as group:
        by_query = group.create_task(client.get(path, params={"wait": "30"}))
        by_header = group.create_task(
            client.get(path, headers={"Prefer": "wait=30", "If-None-Match": etag})
        )
        while len(runtime.status_cache._waiters.get(path.rpartition("/")[2], ())) < 2:
            await asyncio.sleep(0.001)
        await finish(runtime, upstream, clock)

    for response in (by_query.result(), by_header.result()):
        assert response.status_code == 200
        assert response.json()["status"] == "succeeded"
        assert response.headers["preference-applied"] == "wait=30"


async def test_a_read_does_not_wait_without_reason(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    path = f"{SURFACES[0]}/{await submit(client)}"
    async with asyncio.timeout(10):
        news = await client.get(
            path, params={"wait": "60"}, headers={"If-None-Match": '"0-00000000"'}
        )
        runtime.lifecycle.is_draining = True
        draining = await client.get(path, params={"wait": "60"})
        runtime.lifecycle.is_draining = False
        await finish(runtime, upstream, clock)
        ended = await client.get(path, params={"wait": "60"})

    assert [r.status_code for r in (news, draining, ended)] == [200, 200, 200]
    assert ended.json()["status"] == "succeeded"


async def test_a_wait_that_is_over_shows_the_task_as_it_is(
    client: httpx.AsyncClient, clock: FakeClock
) -> None:
    del clock
    path = f"{SURFACES[0]}/{await submit(client)}"
    etag = (await client.get(path)).headers["etag"]

    plain = await client.get(path, params={"wait": "0.01"})
    conditional = await client.get(path, params={"wait": "0.01"}, headers={"If-None-Match": etag})

    assert plain.json()["status"] == "queued"
    assert conditional.status_code == 304


async def test_a_wrong_wait_is_refused_by_name(client: httpx.AsyncClient) -> None:
    path = f"{SURFACES[0]}/{await submit(client)}"

    for wait in ("61", "-1", "abc", "", "1e1", "٣", "nan"):
        by_query = await client.get(path, params={"wait": wait})
        assert by_query.status_code == 400
        assert error_of(by_query)["param"] == "wait"
    by_header = await client.get(path, headers={"Prefer": "respond-async, wait=61"})
    assert error_of(by_header)["param"] == "wait"


async def test_a_client_that_leaves_stops_waiting(
    client: httpx.AsyncClient, runtime: Runtime, log_stream: io.StringIO
) -> None:
    task_id = await submit(client)
    with pytest.raises(httpx.ReadTimeout):
        await client.get(f"{SURFACES[0]}/{task_id}", params={"wait": "60"}, timeout=0.2)
    async with asyncio.timeout(10):
        while runtime.status_cache._waiters or '"http.response.status_code":499' not in (
            log_stream.getvalue()
        ):
            await asyncio.sleep(0.01)


async def test_tasks_are_listed_by_page_and_filter(client: httpx.AsyncClient) -> None:
    ids = [await submit(client) for _ in range(3)]

    page = await client.get(SURFACES[0], params={"page_num": 2, "page_size": 2})
    chosen = await client.get(SURFACES[2], params={"filter.task_ids": ids[:2]})
    commas = await client.get(SURFACES[2], params={"filter.task_ids": ",".join(ids[:2])})
    states = await client.get(SURFACES[0], params={"filter.status": ["queued", "failed"]})
    other = await client.get(SURFACES[0], params={"filter.model": "no-such-model"})
    ignored = await client.get(SURFACES[0], params={"unknown": "x", "filter.model": ""})

    assert page.json()["total"] == 3
    assert len(page.json()["items"]) == 1
    assert {item["id"] for item in chosen.json()["items"]} == set(ids[:2])
    assert commas.json() == {"total": 0, "items": []}
    assert states.json()["total"] == ignored.json()["total"] == 3
    assert other.json() == {"total": 0, "items": []}


async def test_a_wrong_filter_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for name, value in (
        ("page_num", "0"),
        ("page_size", "501"),
        ("filter.status", "done"),
        ("filter.model", "x" * 257),
    ):
        response = await client.get(SURFACES[0], params={name: value})

        assert response.status_code == 400
        assert error_of(response)["param"] == name


async def test_an_upstreams_refusal_comes_back_in_its_words_with_our_request_id(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [
        UpstreamRejected(
            "The text may be sensitive. Request id: 0217953000",
            code="InputTextSensitiveContentDetected",
            status=400,
            kind="BadRequest",
            param="content",
        )
    ]
    response = await client.post(SURFACES[2], json=BODY, headers={"X-Request-Id": "mine-1"})

    assert response.status_code == 400
    assert error_of(response) == {
        "code": "InputTextSensitiveContentDetected",
        "message": "The text may be sensitive. Request id: mine-1",
        "param": "content",
        "type": "BadRequest",
    }
    assert "x-should-retry" not in response.headers


async def test_our_own_credentials_trouble_is_never_the_clients_401(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamAccount("The upstream refused the gateway's credential.")]

    response = await client.post(SURFACES[2], json=BODY)

    assert response.status_code == 503
    assert error_of(response)["code"] == "UpstreamAccount"
    assert response.headers["x-should-retry"] == "false"
    assert int(response.headers["retry-after"]) > 0


async def test_only_plain_json_is_read(client: httpx.AsyncClient) -> None:
    cases: tuple[tuple[dict[str, str], bytes, int], ...] = (
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/json; charset=latin-1"}, b"{}", 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"{}", 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, b"{}", 400),
        ({}, b"{}", 400),
        ({}, b"", 400),
        ({}, b"[]", 400),
        ({}, b'{"model":1e999}', 400),
    )
    for headers, content, status in cases:
        response = await client.post(SURFACES[0], content=content, headers=headers)

        assert response.status_code == status, (headers, content)
        error_of(response)


async def test_a_submit_while_stopping_is_refused_and_the_connection_closed(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    runtime.lifecycle.is_draining = True

    response = await client.post(SURFACES[0], json=BODY)
    ready = await client.get("/readyz")

    assert response.status_code == 503
    assert error_of(response)["code"] == "Draining"
    assert response.headers["connection"] == "close"
    assert "x-should-retry" not in response.headers
    assert ready.status_code == 503
    assert ready.json() == {"status": "unavailable"}
    assert (await client.get("/livez")).status_code == 200
    assert not upstream.submits


async def test_readiness_names_its_checks_when_asked(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json() == {"status": "ok"}
    assert (await client.get("/healthz?verbose")).json() == {
        "status": "ok",
        "checks": {"draining": "ok", "database": "ok"},
    }


async def test_a_request_id_is_taken_over_only_if_it_is_safe(
    client: httpx.AsyncClient, keys: Keys
) -> None:
    for given in ("mine-1", "a" * 128):
        response = await client.get("/livez", headers={"X-Request-Id": given})
        assert response.headers["x-request-id"] == given
    for given in ("", "a" * 129, "a b", '"', keys.owner, "a/b"):
        response = await client.get("/livez", headers={"X-Request-Id": given})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


async def test_no_answer_names_the_server_or_may_be_kept(
    client: httpx.AsyncClient,
) -> None:
    for endpoint in TASK_ENDPOINTS:
        path = endpoint.path.format(task_id="cgt-1")
        response = await client.request(endpoint.method, path)

        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers.get_list("server") == ["seedance-gateway"]


async def test_a_defect_is_told_in_fixed_words_and_logged_once(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    log_stream: io.StringIO,
) -> None:
    del upstream
    await runtime.db.close()
    response = await client.post(SURFACES[0], json=BODY)

    assert response.status_code in {500, 503}
    assert error_of(response)["code"] in {"InternalServiceError", "StorageUnavailable"}
    lines = [json.loads(line) for line in log_stream.getvalue().splitlines()]
    assert [line["http.response.status_code"] for line in lines if "http.route" in line][-1] in {
        500,
        503,
    }


async def test_each_request_is_one_line_without_secrets(
    client: httpx.AsyncClient, keys: Keys, log_stream: io.StringIO
) -> None:
    task_id = await submit(client)
    before = len(log_stream.getvalue().splitlines())
    await client.get(f"{SURFACES[0]}/{task_id}?canary=query-canary")
    await client.get(f"{SURFACES[0]}/{keys.owner}")
    await client.get("/no/path-canary", headers={"X-Canary": "header-canary"})
    async with asyncio.timeout(5):
        while len(log_stream.getvalue().splitlines()) < before + 3:
            await asyncio.sleep(0.001)

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
