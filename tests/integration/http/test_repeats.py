"""The same request again: idempotency keys, and the join of a request whose client is gone."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from gateway.app import create_app
from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.errors import UpstreamAmbiguous, UpstreamRejected
from gateway.ports import Runtime
from gateway.services import limiting
from gateway.services.sweeping import sweep_idempotency_keys
from gateway.storage import attempts, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY, MODEL, SURFACES, Keys, error_of, submit
from tests.support.listening import listening
from tests.support.waiting import PATIENCE_S

PATH = SURFACES[0]
OTHER_BODY = {"model": MODEL, "content": [{"type": "text", "text": "A kite --duration 5"}]}


async def send(
    client: httpx.AsyncClient,
    key: str | None = None,
    body: object = BODY,
    path: str = PATH,
    **headers: str,
) -> httpx.Response:
    named = {"Idempotency-Key": key} if key is not None else {}
    return await client.post(path, json=body, headers={**named, **headers})


async def count_tasks(runtime: Runtime) -> int:
    return len(await runtime.db.read(tasks.list_all, 1000))


async def test_a_key_with_the_same_body_gives_the_same_task_on_every_surface(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    first = await send(client, "k-1")
    again = [await send(client, "k-1", path=path) for path in SURFACES]

    assert {each.json()["id"] for each in again} == {first.json()["id"]}
    assert "idempotent-replayed" not in first.headers
    assert [each.headers["idempotent-replayed"] for each in again] == ["true"] * 3
    assert again[0].content == first.content
    assert len(upstream.submits) == 1


async def test_a_body_spelt_differently_is_the_same_request(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    spelt = {
        "content": [
            {"text": "Paper boats drift", "type": "text"},
            {
                "type": "image_url",
                "image_url": {"url": "https://img.example/boat.png"},
                "role": None,
            },
        ],
        "model": MODEL,
        "duration": "5",
        "resolution": "480p",
    }

    first, again = await send(client, "k-1"), await send(client, "k-1", spelt)

    assert again.json()["id"] == first.json()["id"]
    assert len(upstream.submits) == 1


async def test_a_key_with_another_body_is_refused_and_nothing_is_sent(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    await send(client, "k-1")

    refused = await send(client, "k-1", OTHER_BODY)

    assert refused.status_code == 422
    assert error_of(refused)["code"] == "InvalidParameter.IdempotencyKeyReused"
    assert len(upstream.submits) == 1


async def test_a_key_is_one_projects_own(
    client: httpx.AsyncClient, keys: Keys, upstream: FakeUpstream
) -> None:
    first = await send(client, "k-1")

    foreign = await send(client, "k-1", Authorization=f"Bearer {keys.stranger}")

    assert foreign.status_code == 200
    assert foreign.json()["id"] != first.json()["id"]
    assert len(upstream.submits) == 2


async def test_a_refused_request_stores_nothing_under_its_key(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamRejected("No.", code="Sensitive", status=400)]

    refused, again = await send(client, "k-1"), await send(client, "k-1", OTHER_BODY)

    assert refused.status_code == 400
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers
    assert len(upstream.submits) == 2


async def test_a_key_is_kept_for_a_week(
    client: httpx.AsyncClient, clock: FakeClock, upstream: FakeUpstream
) -> None:
    first = await send(client, "k-1")
    clock.advance(7 * 86_400 - 60)
    kept = await send(client, "k-1")
    clock.advance(120)
    forgotten = await send(client, "k-1", OTHER_BODY)

    assert kept.json()["id"] == first.json()["id"]
    assert forgotten.status_code == 200
    assert forgotten.json()["id"] != first.json()["id"]
    assert len(upstream.submits) == 2


async def test_a_date_that_is_set_ahead_frees_no_key(
    runtime: Runtime, client: httpx.AsyncClient, clock: FakeClock, upstream: FakeUpstream
) -> None:
    clock.advance(7200)
    first = await send(client, "k-1")
    clock.set_date(8 * 86_400)
    during = await send(client, "k-1")
    assert await sweep_idempotency_keys(runtime) == 0
    clock.set_date(-8 * 86_400)
    after = await send(client, "k-1")

    assert {each.json()["id"] for each in (during, after)} == {first.json()["id"]}
    assert len(upstream.submits) == 1


async def test_a_replay_counts_for_the_rate_and_works_after_the_wait_it_is_told(
    client: httpx.AsyncClient, runtime: Runtime, clock: FakeClock, upstream: FakeUpstream
) -> None:
    limit = LimitSetting(Account(Scope.ORGANIZATION, ""), Metric.RPM, None, 2)
    await limiting.set_limit(runtime, "test", limit)
    first, replayed, refused = [await send(client, "k-1") for _ in range(3)]
    clock.advance(int(refused.headers["retry-after"]))
    later = await send(client, "k-1")

    assert [each.status_code for each in (first, replayed, refused, later)] == [200, 200, 429, 200]
    assert error_of(refused)["code"] == "RateLimitExceeded.Requests"
    assert later.json()["id"] == replayed.json()["id"] == first.json()["id"]
    assert len(upstream.submits) == 1


async def test_a_refusal_after_a_repeat_was_given_the_id_is_kept_under_the_key(
    runtime: Runtime, keys: Keys, upstream: FakeUpstream
) -> None:
    settings = runtime.config.submit.model_copy(update={"replay_wait_s": 0.05})
    impatient = replace(runtime, config=runtime.config.model_copy(update={"submit": settings}))
    upstream.submit_errors = [UpstreamRejected("No.", code="Sensitive", status=400)]
    upstream.gate, upstream.asked = asyncio.Event(), asyncio.Event()
    async with (
        listening(create_app(impatient)) as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {keys.owner}"},
            trust_env=False,
        ) as client,
    ):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(send(client, "k-1"))
            await upstream.asked.wait()
            repeat = await send(client, "k-1")
            await let_go(runtime, upstream)
        again, other, anew = [
            await send(client, key, body)
            for key, body in (("k-1", BODY), ("k-1", OTHER_BODY), ("k-2", OTHER_BODY))
        ]
        shown = (await client.get(f"{PATH}/{repeat.json()['id']}")).json()

    assert first.result().status_code == 400
    assert [each.status_code for each in (repeat, again, other, anew)] == [200, 200, 422, 200]
    assert again.json()["id"] == repeat.json()["id"]
    assert (shown["status"], shown["error"]["code"]) == ("failed", "Sensitive")
    assert len(upstream.submits) == 2


@pytest.mark.parametrize("count", [2, 8, 64])
async def test_parallel_requests_with_one_key_make_one_task(
    client: httpx.AsyncClient, upstream: FakeUpstream, count: int
) -> None:
    answers = await asyncio.gather(*(send(client, "k-1") for _ in range(count)))

    assert {each.status_code for each in answers} == {200}
    assert len({each.json()["id"] for each in answers}) == 1
    assert len(upstream.submits) == 1


async def test_a_key_gives_the_task_whose_answer_was_lost(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("The connection broke.")]
    first = await send(client, "k-1")

    again = await send(client, "k-1")

    assert first.status_code == again.status_code == 200
    assert again.json()["id"] == first.json()["id"]
    assert len(upstream.submits) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
async def test_a_key_that_is_none_is_refused(
    client: httpx.AsyncClient, upstream: FakeUpstream, key: str
) -> None:
    refused = await send(client, key)

    assert refused.status_code == 400
    assert error_of(refused)["param"] == "Idempotency-Key"
    assert not upstream.submits


async def foretell(
    client: httpx.AsyncClient, key: str, body: object = BODY, **headers: str
) -> dict[str, str] | None:
    """Return what a dry run says that the submit would be refused with."""
    answer = await send(client, key, body, f"{PATH}?dry_run=1", **headers)
    assert answer.status_code == 200, answer.text
    assert "idempotent-replayed" not in answer.headers
    refusal: dict[str, str] | None = answer.json()["would_refuse"]
    return refusal


def without_id(error: dict[str, str] | None) -> dict[str, str]:
    assert error is not None
    return {**error, "message": error["message"].partition(" Request id:")[0]}


@pytest.mark.parametrize("key", ["", "a b", "x" * 256])
async def test_a_dry_run_tells_that_a_key_is_none(client: httpx.AsyncClient, key: str) -> None:
    foretold = await foretell(client, key)
    refused = await send(client, key)

    assert without_id(foretold) == without_id(error_of(refused))


async def test_a_dry_run_tells_that_a_key_stands_for_another_body(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    await send(client, "k-1")

    foretold = await foretell(client, "k-1", OTHER_BODY)
    refused = await send(client, "k-1", OTHER_BODY)

    assert refused.status_code == 422
    assert without_id(foretold) == without_id(error_of(refused))
    assert len(upstream.submits) == 1


async def test_a_dry_run_of_a_repeat_is_refused_nothing_even_where_no_budget_is_left(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    first = await send(client, "k-1")
    everybody = Account(Scope.ORGANIZATION, "")
    for limit in (
        LimitSetting(everybody, Metric.VIDEOS, Window.EVER, 0),
        LimitSetting(everybody, Metric.TASKS, None, 0),
    ):
        await limiting.set_limit(runtime, "test", limit)

    foretold = [await foretell(client, key) for key in ("k-1", "k-2")]
    again = await send(client, "k-1")

    assert foretold[0] is None
    assert foretold[1] is not None
    assert foretold[1]["code"] == "QuotaExceeded.Budget"
    assert again.json()["id"] == first.json()["id"]
    assert len(upstream.submits) == 1


async def test_a_dry_run_takes_no_key_and_forgets_none(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys, clock: FakeClock
) -> None:
    assert await foretell(client, "k-1") is None
    first = await send(client, "k-1", OTHER_BODY)
    foreign = await foretell(client, "k-1", Authorization=f"Bearer {keys.stranger}")
    clock.advance(8 * 86_400)
    forgotten = await foretell(client, "k-1")

    assert "idempotent-replayed" not in first.headers
    assert foreign is None
    assert forgotten is None
    assert await count_tasks(runtime) == 1


async def test_a_dry_run_tells_of_a_rate_before_it_looks_at_the_key_as_a_submit_does(
    client: httpx.AsyncClient, runtime: Runtime
) -> None:
    limit = LimitSetting(Account(Scope.ORGANIZATION, ""), Metric.RPM, None, 1)
    await limiting.set_limit(runtime, "test", limit)
    await send(client, "k-1")

    foretold = [await foretell(client, key, OTHER_BODY) for key in ("k-1", "a b")]
    refused = [await send(client, key, OTHER_BODY) for key in ("k-1", "a b")]

    assert [each.status_code for each in refused] == [429, 400]
    codes = [without_id(each)["code"] for each in foretold]
    assert codes == [error_of(each)["code"] for each in refused]


async def test_identical_requests_without_a_key_are_each_a_task(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    answers = await asyncio.gather(*(send(client) for _ in range(5)))
    later = await send(client)

    ids = {each.json()["id"] for each in [*answers, later]}
    assert len(ids) == len(upstream.submits) == 6


async def hang_up_while_sending(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> str:
    """Submit, and close the connection while the upstream still thinks; return the task's id."""
    upstream.gate, upstream.asked = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(send(client))
        await upstream.asked.wait()
        request.cancel()
    task_id = upstream.submits[-1].attempt_id
    async with asyncio.timeout(PATIENCE_S):
        while True:
            attempt = await runtime.db.read(attempts.find, task_id)
            if attempt is not None and attempt.has_client_left:
                return task_id
            await asyncio.sleep(0.005)


async def let_go(runtime: Runtime, upstream: FakeUpstream) -> None:
    """Let the upstream answer."""
    assert upstream.gate is not None
    upstream.gate.set()
    await runtime.background.drain()


async def test_a_repeat_joins_the_task_of_a_client_that_left_before_the_answer(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    task_id = await hang_up_while_sending(client, runtime, upstream)
    await let_go(runtime, upstream)

    joined, next_one = await send(client), await send(client)

    assert joined.json()["id"] == task_id
    assert joined.headers["idempotent-replayed"] == "true"
    assert next_one.json()["id"] != task_id
    assert len(upstream.submits) == 2


async def test_a_repeat_joins_a_task_that_is_still_being_sent(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    task_id = await hang_up_while_sending(client, runtime, upstream)
    async with asyncio.TaskGroup() as group:
        repeat = group.create_task(send(client))
        await asyncio.sleep(0.05)
        await let_go(runtime, upstream)

    assert repeat.result().json()["id"] == task_id
    assert len(upstream.submits) == 1


async def test_two_repeats_join_once(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    task_id = await hang_up_while_sending(client, runtime, upstream)
    await let_go(runtime, upstream)

    answers = await asyncio.gather(send(client), send(client))

    assert sorted(each.json()["id"] == task_id for each in answers) == [False, True]
    assert len(upstream.submits) == 2


async def test_another_body_and_another_key_join_nothing(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, keys: Keys
) -> None:
    task_id = await hang_up_while_sending(client, runtime, upstream)
    await let_go(runtime, upstream)

    other = await send(client, body=OTHER_BODY)
    foreign = await send(client, Authorization=f"Bearer {keys.stranger}")

    assert task_id not in {other.json()["id"], foreign.json()["id"]}


async def test_after_ten_minutes_nothing_is_joined(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await hang_up_while_sending(client, runtime, upstream)
    await let_go(runtime, upstream)
    clock.advance(601)

    assert (await send(client)).json()["id"] != task_id


async def test_an_sdks_retry_joins_whoever_was_not_answered(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    upstream.gate, upstream.asked = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(send(client))
        await upstream.asked.wait()
        retry = group.create_task(send(client, **{"x-stainless-retry-count": "1"}))
        await asyncio.sleep(0.05)
        await let_go(runtime, upstream)

    assert retry.result().json()["id"] == first.result().json()["id"]
    assert len(upstream.submits) == 1
    assert await count_tasks(runtime) == 1


async def test_an_sdks_retry_never_joins_a_task_whose_id_was_delivered(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    delivered = await submit(client)
    await runtime.chores.drain()

    retry = await send(client, **{"x-stainless-retry-count": "1"})

    assert retry.json()["id"] != delivered
    assert len(upstream.submits) == 2


async def test_a_refusal_after_a_client_left_is_not_joined(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamRejected("No.", code="Sensitive", status=400)]
    await hang_up_while_sending(client, runtime, upstream)
    await let_go(runtime, upstream)

    repeat = await send(client)

    assert repeat.status_code == 200
    assert "idempotent-replayed" not in repeat.headers
    assert len(upstream.submits) == 2
