"""What clients see of money: estimates, limits, refusals, and the bill of a settled task."""

import asyncio

import httpx
import pytest

from gateway.domain.keys import parse
from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.errors import UpstreamAmbiguous
from gateway.ports import Runtime
from gateway.services import limiting
from gateway.storage import balances, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY, MODEL, SURFACES, Keys, error_of, finish, submit

PATH = SURFACES[0]
LIMIT_PATHS = ("/seedance/limits", "/v1/seedance/limits", "/api/v3/contents/generations/limits")
HOLD = 735_075
"""49,005 tokens at 15 CNY a million."""
ORGANIZATION = Account(Scope.ORGANIZATION, "")


async def set_limit(
    runtime: Runtime,
    account: Account,
    metric: Metric,
    cap: int | None,
    window: Window | None = None,
) -> None:
    await limiting.set_limit(runtime, "test", LimitSetting(account, metric, window, cap))


def key_account(keys: Keys) -> Account:
    public_id = parse(keys.owner)
    assert public_id is not None
    return Account(Scope.KEY, public_id)


@pytest.mark.parametrize("path", SURFACES)
async def test_an_estimate_tells_what_a_submit_holds_and_sends_nothing(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, path: str
) -> None:
    answer = await client.post(f"{path}?dry_run=1", json=BODY)

    assert answer.status_code == 200
    estimate = answer.json()
    assert estimate["request"]["resolution"] == "480p"
    assert estimate["request"]["content"][0]["text"] == "Paper boats drift"
    assert estimate["charge_micros"]["high"] >= estimate["charge_micros"]["low"] > 0
    assert estimate["currency"] == "CNY"
    assert estimate["price_version"].startswith("volcengine-cny/")
    assert estimate["would_refuse"] is None
    assert not upstream.submits
    assert not await runtime.db.read(tasks.list_all, 10)
    assert not await runtime.db.read(balances.list_all)


async def test_an_estimate_is_the_hold_of_the_same_body(
    client: httpx.AsyncClient, runtime: Runtime
) -> None:
    estimate = (await client.post(f"{PATH}?dry_run=true", json=BODY)).json()
    await submit(client)

    held = {each.held.micros for each in await runtime.db.read(balances.list_all)}
    assert held == {estimate["charge_micros"]["high"]}


async def test_an_estimate_of_a_wrong_body_is_its_error(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PATH}?dry_run=1", json={"model": MODEL, "content": []})

    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize(
    "query", ["dry_run=yes", "dry_run", "dry_run=", "dry_run=1&dry_run=1", "dry_run=TRUE"]
)
async def test_a_doubtful_dry_run_is_refused_instead_of_submitted(
    client: httpx.AsyncClient, upstream: FakeUpstream, query: str
) -> None:
    answer = await client.post(f"{PATH}?{query}", json=BODY)

    assert answer.status_code == 400
    assert error_of(answer)["param"] == "dry_run"
    assert not upstream.submits


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize(
    "name", ["dryrun", "Dry_Run", "dry-run", "DRY_RUN", "dryRun", "dry__run", "_dry_run", "Dry-run"]
)
@pytest.mark.parametrize("query", ["{}=1", "{}=0", "dry_run=1&{}=1", "spare=1&{}"])
async def test_a_misspelt_dry_run_is_refused_instead_of_submitted(
    client: httpx.AsyncClient, upstream: FakeUpstream, path: str, name: str, query: str
) -> None:
    answer = await client.post(f"{path}?{query.format(name)}", json=BODY)

    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("InvalidParameter", name)
    assert f"{name} specified in the request is unknown: allowed is dry_run." in error["message"]
    assert not upstream.submits


async def test_other_unknown_query_parameters_change_nothing(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    answer = await client.post(f"{PATH}?spare=1&dry=1&run=1&dry_runs=1&dry.run=1", json=BODY)

    assert answer.status_code == 200
    assert len(upstream.submits) == 1


async def test_an_estimate_names_the_limit_that_would_refuse(
    client: httpx.AsyncClient, runtime: Runtime
) -> None:
    await set_limit(runtime, ORGANIZATION, Metric.MONEY, 1, Window.DAY)

    refusal = (await client.post(f"{PATH}?dry_run=1", json=BODY)).json()["would_refuse"]
    refused = await client.post(PATH, json=BODY)

    assert refused.status_code == 402
    error = error_of(refused)
    assert {name: refusal[name] for name in ("code", "param", "type")} == {
        name: error[name] for name in ("code", "param", "type")
    }


async def test_an_estimate_names_the_rate_that_would_refuse(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    await set_limit(runtime, key_account(keys), Metric.RPM, 1)
    await submit(client)

    for _ in range(2):  # an estimate takes nothing of the rate
        refusal = (await client.post(f"{PATH}?dry_run=1", json=BODY)).json()["would_refuse"]
        assert refusal["code"] == "RateLimitExceeded.Requests"


async def test_a_settled_task_shows_its_bill_on_both_surfaces(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await submit(client)
    before = (await client.get(f"{PATH}/{task_id}")).json()
    await finish(runtime, upstream, clock)

    shown = [(await client.get(f"{path}/{task_id}")).json()["gateway"] for path in SURFACES]

    assert "gateway" not in before
    assert shown[0] == shown[1] == shown[2]
    assert shown[0]["cost_micros"] == HOLD
    assert shown[0]["currency"] == "CNY"


async def test_a_spent_budget_is_402_and_says_what_is_asked_spent_held_and_when_it_resets(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    keys: Keys,
) -> None:
    hold = (await client.post(f"{PATH}?dry_run=1", json=BODY)).json()["charge_micros"]["high"]
    await set_limit(runtime, key_account(keys), Metric.MONEY, HOLD + 2 * hold - 1, Window.MONTH)
    await submit(client)
    await finish(runtime, upstream, clock)
    await submit(client)

    refused = await client.post(PATH, json=BODY)

    assert refused.status_code == 402
    assert "retry-after" not in refused.headers
    assert "x-should-retry" not in refused.headers
    error = error_of(refused)
    assert error["code"] == "QuotaExceeded.Budget"
    for word in (
        "money per month, 2.205224 CNY by",
        "the key",
        "asked 0.735075 CNY",
        "spent 0.735075 CNY",
        "held 0.735075 CNY",
        "resets at 2026-12-01T00:00:00Z",
    ):
        assert word in error["message"]
    assert len(upstream.submits) == 2


OPEN_MODEL = "doubao-seedance-1-5-pro-251215"


@pytest.mark.parametrize(
    ("fields", "metric", "is_advised"),
    [
        ({"duration": -1}, Metric.MONEY, True),
        ({"duration": -1}, Metric.SECONDS, True),
        ({"duration": -1}, Metric.TOKENS, True),
        ({"duration": -1}, Metric.VIDEOS, False),
        ({"duration": 5}, Metric.MONEY, False),
        ({"duration": 5}, Metric.SECONDS, False),
        ({}, Metric.MONEY, False),
    ],
)
@pytest.mark.parametrize("query", ["", "?dry_run=1"])
async def test_a_fixed_duration_is_advised_only_where_it_was_left_open_and_counts(
    client: httpx.AsyncClient,
    runtime: Runtime,
    keys: Keys,
    fields: dict[str, object],
    metric: Metric,
    is_advised: bool,  # noqa: FBT001 - a parameter of the test
    query: str,
) -> None:
    await set_limit(runtime, key_account(keys), metric, 0, Window.EVER)
    body = {"model": OPEN_MODEL, "content": [{"type": "text", "text": "Boats"}], **fields}

    answer = await client.post(PATH + query, json=body)

    error = answer.json()["would_refuse"] if query else error_of(answer)
    assert error["code"] == "QuotaExceeded.Budget"
    assert ("A fixed duration lowers what is held" in error["message"]) == is_advised
    assert ("CNY" in error["message"]) == (metric is Metric.MONEY)


async def test_budgets_are_checked_in_the_order_organization_project_key(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 0, Window.EVER)
    await set_limit(runtime, ORGANIZATION, Metric.SECONDS, 0, Window.EVER)

    error = error_of(await client.post(PATH, json=BODY))

    assert "seconds, 0 by the limit of the organization" in error["message"]


async def test_too_many_tasks_in_progress_is_429_until_one_ends(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    keys: Keys,
) -> None:
    await set_limit(runtime, key_account(keys), Metric.TASKS, 2)
    for _ in range(2):
        await submit(client)

    refused = await client.post(PATH, json=BODY)
    await finish(runtime, upstream, clock)
    let_in = await client.post(PATH, json=BODY)

    assert refused.status_code == 429
    assert error_of(refused)["code"] == "RateLimitExceeded.Tasks"
    assert int(refused.headers["retry-after"]) > 0
    assert let_in.status_code == 200


async def test_a_limit_set_later_counts_what_its_window_already_used(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    for _ in range(3):
        await submit(client)
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 3, Window.DAY)

    assert (await client.post(PATH, json=BODY)).status_code == 402


async def test_a_rate_is_told_with_every_submit_and_refuses_with_429(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys, clock: FakeClock
) -> None:
    await set_limit(runtime, key_account(keys), Metric.RPM, 2)

    first, second, third = [await client.post(PATH, json=BODY) for _ in range(3)]
    clock.advance(30)
    later = await client.post(PATH, json=BODY)

    assert [each.status_code for each in (first, second, third, later)] == [200, 200, 429, 200]
    assert first.headers["ratelimit-policy"] == '"rpm";q=2;w=60'
    assert first.headers["ratelimit"].startswith('"rpm";r=1;')
    assert third.headers["ratelimit"].startswith('"rpm";r=0;')
    assert third.headers["retry-after"] == "30"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    error = error_of(third)
    assert error["code"] == "RateLimitExceeded.Requests"
    assert "2 submits per minute" in error["message"]


async def test_a_rate_is_told_with_refusals_for_other_reasons_too(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    await set_limit(runtime, key_account(keys), Metric.RPM, 50)
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 1, Window.DAY)
    await submit(client)

    spent = await client.post(PATH, json=BODY)
    unknown = await client.post(PATH, json={**BODY, "model": "none"})
    wrong = await client.post(PATH, content=b"{")

    assert [each.status_code for each in (spent, unknown, wrong)] == [402, 404, 400]
    left = [each.headers["x-ratelimit-remaining-requests"] for each in (spent, unknown, wrong)]
    assert left == ["48", "47", "46"]
    assert [each.headers.get_list("ratelimit-policy") for each in (spent, unknown, wrong)] == [
        ['"rpm";q=50;w=60']
    ] * 3


async def test_without_a_rate_there_are_no_rate_headers(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, json=BODY)

    assert not [name for name in answer.headers if "ratelimit" in name]


@pytest.mark.parametrize("path", LIMIT_PATHS)
async def test_a_key_is_told_what_it_has_left(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys, path: str
) -> None:
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 10, Window.DAY)
    await set_limit(runtime, ORGANIZATION, Metric.MONEY, 10_000_000, Window.EVER)
    await set_limit(runtime, ORGANIZATION, Metric.TASKS, 4)
    await set_limit(runtime, key_account(keys), Metric.RPM, 60)
    await submit(client)

    told = (await client.get(path)).json()

    by_name = {(each["scope"], each["metric"]): each for each in told["limits"]}
    assert told["currency"] == "CNY"
    assert by_name["key", "videos"] == {
        "scope": "key",
        "metric": "videos",
        "window": "day",
        "unit": "videos",
        "cap": 10,
        "spent": 0,
        "held": 1,
        "left": 9,
        "resets_at": 1_795_392_000,
    }
    money = by_name["org", "money"]
    assert money["unit"] == "micros"
    assert money["cap"] == money["spent"] + money["held"] + money["left"]
    assert money["resets_at"] is None
    assert by_name["org", "tasks"]["left"] == 3
    assert by_name["key", "rpm"]["left"] == 59


async def rate_use(client: httpx.AsyncClient) -> dict[str, int | None]:
    """Return what a key is told of its rate, and nothing else."""
    (told,) = (await client.get(LIMIT_PATHS[0])).json()["limits"]
    return {name: told[name] for name in ("cap", "spent", "held", "left", "resets_at")}


async def test_the_figures_of_a_rate_agree_with_each_other_and_with_the_headers(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys, clock: FakeClock
) -> None:
    await set_limit(runtime, key_account(keys), Metric.RPM, 3)
    assert await rate_use(client) == {
        "cap": 3,
        "spent": 0,
        "held": 0,
        "left": 3,
        "resets_at": None,
    }

    answers = [await client.post(PATH, json=BODY) for _ in range(3)]
    used = await rate_use(client)
    now_s = clock.now_ms() // 1000
    clock.advance(30.5)
    later = await rate_use(client)

    assert used == {"cap": 3, "spent": 3, "held": 0, "left": 0, "resets_at": now_s + 60}
    assert answers[-1].headers["ratelimit"] == '"rpm";r=0;t=60'
    # A submit comes free every 20 s; the moment is told in whole seconds, never one too early.
    assert later == {"cap": 3, "spent": 2, "held": 0, "left": 1, "resets_at": now_s + 61}
    clock.advance(29.5)
    assert (await rate_use(client))["resets_at"] is None


async def test_a_rate_of_none_spends_nothing_and_never_resets(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    await set_limit(runtime, key_account(keys), Metric.RPM, 0)

    assert await rate_use(client) == {
        "cap": 0,
        "spent": 0,
        "held": 0,
        "left": 0,
        "resets_at": None,
    }


async def test_another_projects_limits_are_not_told(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys
) -> None:
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 10, Window.DAY)

    told = await client.get(LIMIT_PATHS[0], headers={"Authorization": f"Bearer {keys.stranger}"})

    assert told.json()["limits"] == []


async def test_unknown_submissions_close_the_key_before_anything_is_held(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, keys: Keys
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("The connection broke.") for _ in range(2)]
    for _ in range(2):
        await submit(client)
    held_before = await runtime.db.read(balances.list_all)

    refused = await client.post(PATH, json=BODY)
    others = await client.post(
        PATH, json=BODY, headers={"Authorization": f"Bearer {keys.stranger}"}
    )

    assert refused.status_code == 503
    assert error_of(refused)["code"] == "SubmissionsUnconfirmed"
    assert int(refused.headers["retry-after"]) > 0
    assert others.status_code == 200
    owner = key_account(keys)
    held_after = await runtime.db.read(balances.list_all)
    assert [each for each in held_after if each.account == owner] == [
        each for each in held_before if each.account == owner
    ]
    assert len(upstream.submits) == 3


async def test_a_model_without_a_price_is_refused(
    client: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    body = {"model": "seedance-2-0-1", "content": [{"type": "text", "text": "A kite"}]}

    assert (await client.post(PATH, json=body)).status_code == 404
    assert not upstream.submits


async def test_a_burst_gets_exactly_what_a_budget_has(
    client: httpx.AsyncClient, runtime: Runtime, keys: Keys, upstream: FakeUpstream
) -> None:
    await set_limit(runtime, key_account(keys), Metric.VIDEOS, 7, Window.DAY)

    answers = await asyncio.gather(*(client.post(PATH, json=BODY) for _ in range(30)))

    statuses = [each.status_code for each in answers]
    assert statuses.count(200) == 7
    assert statuses.count(402) == 23
    assert len(upstream.submits) == 7
