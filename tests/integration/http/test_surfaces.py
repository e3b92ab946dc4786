"""Both surfaces over real sockets, on a real store, with an upstream that obeys the test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from gateway.app import create_app
from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.domain.tasks import Observation, TaskError
from gateway.errors import UpstreamAccount, UpstreamRejected
from gateway.http.endpoints import TASK_ENDPOINTS
from gateway.ports import Runtime
from gateway.services import limiting
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import (
    BODY,
    MODEL,
    SURFACES,
    Keys,
    error_of,
    finish,
    observe,
    submit,
)
from tests.support.listening import SERVERS, listening

ODD_BODY = {**BODY, "duration": 5, "resolution": "4k", "content": BODY["content"][1:]}
"""What the model's rules don't list: it has no 4k."""


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
    fields.append("gateway")
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
    await observe(runtime, upstream, clock)

    task = (await client.get(f"{SURFACES[2]}/{task_id}")).json()

    assert task["status"] == "failed"
    assert task["error"] == {"code": "OutputVideoSensitiveContentDetected", "message": "No."}


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
    assert put.headers["allow"] == "DELETE, GET, HEAD"
    assert post.headers["allow"] == "DELETE, GET, HEAD"
    assert options.headers["allow"] == "GET, HEAD, POST"


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    task_id = await submit(client)
    for path in (f"{SURFACES[0]}/{task_id}", SURFACES[2], "/livez", "/docs"):
        get, head = await client.get(path), await client.head(path)

        assert head.content == b""
        assert head.status_code == get.status_code == 200
        assert head.headers["content-length"] == str(len(get.content))
        assert head.headers.get("etag") == get.headers.get("etag")


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


@pytest.mark.parametrize("path", [*SURFACES, f"{SURFACES[0]}?dry_run=1"])
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com:99999/",
        "http://0x7f.1/",
        "http://2130706433/",
        "http://127.0.0.1/",
        "https://[fe80::1]/",
    ],
)
async def test_a_callback_address_that_can_never_be_called_is_refused(
    client: httpx.AsyncClient, upstream: FakeUpstream, path: str, url: str
) -> None:
    refused = await client.post(path, json={**BODY, "callback_url": url})

    assert refused.status_code == 400
    error = error_of(refused)
    assert (error["code"], error["param"]) == ("InvalidParameter", "callback_url")
    assert "allowed are" in error["message"]
    assert not upstream.submits


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


async def test_no_answer_names_the_server_or_may_be_kept(
    client: httpx.AsyncClient,
) -> None:
    for endpoint in TASK_ENDPOINTS:
        path = endpoint.path.format(task_id="cgt-1")
        response = await client.request(endpoint.method, path)

        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers.get_list("server") == ["seedance-gateway"]


async def test_the_description_can_be_switched_off(runtime: Runtime) -> None:
    server = runtime.config.server.model_copy(update={"docs": False})
    config = runtime.config.model_copy(update={"server": server})
    async with (
        listening(create_app(replace(runtime, config=config))) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        for path in ("/openapi.json", "/docs", "/docs/docs.js"):
            assert error_of(await client.get(path))["code"] == "NotFound"
        assert (await client.get("/livez")).status_code == 200


@asynccontextmanager
async def warned(runtime: Runtime, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that only warns of the rules of models."""
    rules = runtime.config.validation.model_copy(update={"mode": "warn"})
    config = runtime.config.model_copy(update={"validation": rules})
    async with (
        listening(create_app(replace(runtime, config=config))) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {keys.owner}"},
            trust_env=False,
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("surface", SURFACES)
async def test_rules_that_are_only_warned_of_are_told_in_a_header(
    runtime: Runtime, keys: Keys, surface: str
) -> None:
    async with warned(runtime, keys) as client:
        answer = await client.post(surface, json=ODD_BODY)
        plain = await client.post(surface, json=BODY)

    assert answer.status_code == 200
    assert "resolution" in answer.headers["x-gateway-warning"]
    assert "x-gateway-warning" not in plain.headers


async def test_an_estimate_carries_the_warning_of_its_submit(runtime: Runtime, keys: Keys) -> None:
    async with warned(runtime, keys) as client:
        estimate = await client.post(f"{SURFACES[2]}?dry_run=1", json=ODD_BODY)
        answer = await client.post(SURFACES[2], json=ODD_BODY)

    assert estimate.status_code == 200
    assert estimate.json()["would_refuse"] is None
    warnings = estimate.headers.get_list("x-gateway-warning")
    assert warnings == answer.headers.get_list("x-gateway-warning")
    assert len(warnings) == 1


async def test_a_warning_is_told_with_the_upstreams_refusal_too(
    runtime: Runtime, keys: Keys, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [
        UpstreamRejected("No such resolution.", code="InvalidParameter", status=400)
    ]
    async with warned(runtime, keys) as client:
        refused = await client.post(SURFACES[2], json=ODD_BODY)

    assert refused.status_code == 400
    assert error_of(refused)["message"].startswith("No such resolution.")
    assert "resolution" in refused.headers["x-gateway-warning"]
    counted = runtime.metrics.validation_warnings.values
    assert sum(counted.values()) == 1


async def test_a_warning_is_told_with_a_spent_budget_too(runtime: Runtime, keys: Keys) -> None:
    limit = LimitSetting(Account(Scope.ORGANIZATION, ""), Metric.VIDEOS, Window.DAY, 0)
    await limiting.set_limit(runtime, "test", limit)
    async with warned(runtime, keys) as client:
        refused = await client.post(SURFACES[0], json=ODD_BODY)

    assert refused.status_code == 402
    assert "resolution" in refused.headers["x-gateway-warning"]
