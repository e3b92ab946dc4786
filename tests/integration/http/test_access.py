"""Who may see what."""

import json
import re

import httpx

from gateway.http.endpoints import ENDPOINTS
from tests.support.gateway_client import SURFACES, Keys, error_of, submit


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
