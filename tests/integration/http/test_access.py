"""Who may see what."""

import json
import re

import httpx

from gateway.http.endpoints import ENDPOINTS, METHODS, TASK_ENDPOINTS
from gateway.ports import Runtime
from gateway.services import admin
from tests.support.clock import FakeClock
from tests.support.gateway_client import BODY, SURFACES, Keys, error_of, submit


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


async def test_a_method_that_no_operation_has_reaches_none_and_needs_no_key(
    client: httpx.AsyncClient,
) -> None:
    assert {"GET", "HEAD", "POST", "DELETE"} == METHODS
    for endpoint in TASK_ENDPOINTS:
        path = endpoint.path.format(task_id="cgt-1")
        for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "X" * 100):
            response = await client.request(method, path, headers={"Authorization": ""})

            assert response.status_code == 405
            error_of(response)


async def test_a_bare_key_is_taken_too(client: httpx.AsyncClient, keys: Keys) -> None:
    response = await client.get(SURFACES[0], headers={"Authorization": keys.owner})

    assert response.status_code == 200


async def test_each_caller_sees_its_own_projects_tasks_on_each_route_and_no_others(
    client: httpx.AsyncClient, runtime: Runtime, clock: FakeClock, keys: Keys
) -> None:
    expiring = await admin.create_key(runtime, "test", "default", ttl_ms=1000)
    clock.advance(2)
    unknown_id = "cgt-20261122150102-" + "a" * 20
    callers = {
        "owner": keys.owner,
        "other project": keys.stranger,
        "revoked": keys.revoked,
        "expired": expiring.key,
        "none": "",
    }
    seen = {}
    for endpoint in TASK_ENDPOINTS:
        for caller, key in callers.items():
            for kind in ("own", "unknown", "malformed") if "{" in endpoint.path else ("",):
                own_id = await submit(client) if kind == "own" else ""
                task_id = own_id or {"unknown": unknown_id}.get(kind, "no-such-id")
                response = await client.request(
                    endpoint.method,
                    endpoint.path.format(task_id=task_id),
                    headers={"Authorization": f"Bearer {key}" if key else ""},
                    json=BODY if endpoint.method == "POST" else None,
                )
                seen[endpoint, caller, kind] = response.status_code
                if endpoint.operation == "list_tasks" and caller == "other project":
                    # It made one by the POST of each collection; all others are the owner's.
                    made = sum(e.method == "POST" for e, who, _ in seen if who == caller)
                    assert response.json()["total"] == made

    for (endpoint, caller, kind), status in seen.items():
        wanted = 401 if caller in {"revoked", "expired", "none"} else 200
        if wanted == 200 and (
            kind in {"unknown", "malformed"} or (kind == "own" and caller == "other project")
        ):
            wanted = 404
        assert status == wanted, (endpoint, caller, kind)
