"""Status reads and lists: conditions, waiting, filters."""

import asyncio
import io

import httpx
import pytest

from gateway.http.middleware import RequestMiddleware
from gateway.ports import Runtime
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import SURFACES, error_of, finish, submit
from tests.support.listening import SERVERS
from tests.support.waiting import eventually


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
        await eventually(lambda: runtime.status_cache._waiting_count == 2)
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


async def test_a_preference_is_granted_as_far_as_it_goes(client: httpx.AsyncClient) -> None:
    task_id = await submit(client)
    await client.delete(f"{SURFACES[0]}/{task_id}")  # an ended task is answered at once

    granted = await client.get(
        f"{SURFACES[0]}/{task_id}", headers={"Prefer": "respond-async, wait=100"}
    )
    ignored = await client.get(f"{SURFACES[0]}/{task_id}", headers={"Prefer": "wait=abc"})

    assert granted.headers["Preference-Applied"] == "wait=60"
    assert ignored.status_code == 200
    assert "Preference-Applied" not in ignored.headers


@pytest.mark.parametrize("port", SERVERS, indirect=True)
async def test_a_client_that_leaves_stops_waiting(
    client: httpx.AsyncClient,
    app: RequestMiddleware,
    runtime: Runtime,
    log_stream: io.StringIO,
) -> None:
    task_id = await submit(client)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(client.get(f"{SURFACES[0]}/{task_id}?wait=60"))
        await eventually(lambda: runtime.status_cache._waiting_count)
        assert app.in_flight_count == 1
        reading.cancel()
    await eventually(lambda: '"http.response.status_code":499' in log_stream.getvalue())

    assert not runtime.status_cache._waiters
    assert app.in_flight_count == 0


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
