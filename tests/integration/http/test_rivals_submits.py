"""How other gateways let through, lost or repeated what was submitted, one test each.

docs/promises.md has the table with the numbers of their issues.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import httpx
import pytest

from gateway.app import create_app
from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.domain.billing import EntryKind
from gateway.domain.limits import Account, Metric
from gateway.domain.tasks import Observation
from gateway.errors import (
    GatewayError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ports import Runtime
from gateway.runtime import make_routes, open_prices
from gateway.services.reconciling import OUTCOME_UNKNOWN
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY, MODEL, SURFACES, Keys, error_of, submit
from tests.support.listening import listening
from tests.support.spending import (
    HOLD,
    ROOMY,
    entries_of,
    find_accounts,
    kinds_of,
    look,
    set_limits,
    used_of,
)

PATH = SURFACES[0]


@pytest.fixture
async def accounts(runtime: Runtime, keys: Keys) -> Sequence[Account]:
    """Organization, project and key of the client."""
    return await find_accounts(runtime, keys)


async def test_the_tail_of_a_prompt_is_held_and_priced_as_what_it_asks_for(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream
) -> None:
    holds = []
    for text, typed in (
        ("A fox --resolution 1080p --duration 10", {}),
        ("A fox", {"resolution": "1080p", "duration": 10}),
        ("A fox --rs 480p --dur 5", {}),
    ):
        body = {"model": MODEL, "content": [{"type": "text", "text": text}], **typed}
        task_id = (await client.post(PATH, json=body)).raise_for_status().json()["id"]
        holds.append((await entries_of(runtime, task_id))[0].held.micros)

    assert holds[0] == holds[1] > 8 * holds[2]
    assert upstream.submits[0].request == upstream.submits[1].request


async def test_a_client_that_hangs_up_leaks_no_hold(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, ROOMY)
    upstream.gate = asyncio.Event()
    with pytest.raises(httpx.ReadTimeout):
        await client.post(PATH, json=BODY, timeout=httpx.Timeout(5, read=0.2))
    during = await used_of(client)
    upstream.gate.set()
    await runtime.background.drain()
    upstream.shown["up-1"] = Observation("failed", {})
    await look(runtime, upstream, clock, 60)

    assert all(held > 0 for _, held in during)
    assert await used_of(client) == [(0, 0)] * 15


async def test_what_is_refused_takes_nothing_and_is_not_refused_for_it_later(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, {**ROOMY, Metric.TASKS: 2, Metric.MONEY: 2 * HOLD})
    refusals: list[GatewayError] = [
        UpstreamRejected("Bad words.", code="InputTextSensitiveContentDetected", status=400),
        UpstreamAccount("The upstream account can't be used."),
        *(UpstreamUnavailable("refused") for _ in range(3)),
    ]
    upstream.submit_errors = list(refusals)
    statuses = [(await client.post(PATH, json=BODY)).status_code for _ in range(3)]
    after = await used_of(client)
    granted = [(await client.post(PATH, json=BODY)).status_code for _ in range(2)]
    statuses += [(await client.post(PATH, json=BODY)).status_code for _ in range(5)]

    assert statuses == [400, 503, 503, 402, 402, 402, 402, 402]
    assert after == [(0, 0)] * 15
    assert granted == [200, 200]


async def test_a_balance_above_nothing_is_not_enough(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts[2:], {Metric.MONEY: HOLD - 1})

    refused = await client.post(PATH, json=BODY)

    assert refused.status_code == 402
    assert error_of(refused)["code"] == "QuotaExceeded.Budget"
    assert not upstream.submits


async def test_a_rich_key_is_held_from_like_any_other(
    client: httpx.AsyncClient,
    runtime: Runtime,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, {Metric.MONEY: 10**17})

    await submit(client)

    assert await used_of(client) == [(0, HOLD)] * 3


@pytest.mark.parametrize("path", SURFACES)
async def test_no_way_to_submit_goes_past_a_budget(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    accounts: Sequence[Account],
    path: str,
) -> None:
    await set_limits(runtime, accounts[:1], {Metric.VIDEOS: 0})

    assert (await client.post(path, json=BODY)).status_code == 402
    assert not upstream.submits


async def test_a_poor_key_stops_nobody_else(
    client: httpx.AsyncClient,
    runtime: Runtime,
    keys: Keys,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts[2:], {Metric.MONEY: 0})
    for _ in range(20):
        assert (await client.post(PATH, json=BODY)).status_code == 402

    other = await client.post(PATH, json=BODY, headers={"Authorization": f"Bearer {keys.stranger}"})

    assert other.status_code == 200


@pytest.mark.parametrize(
    "error", [UpstreamTimeout("slow"), UpstreamAccount("401"), RuntimeError("a defect")]
)
async def test_an_error_of_a_poll_never_submits_again(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    error: Exception,
) -> None:
    task_id = await submit(client)
    upstream.read_error = error
    for _ in range(5):
        try:
            await look(runtime, upstream, clock, 600)
        except* RuntimeError:
            pass
        await client.get(f"{PATH}/{task_id}")

    assert len(upstream.submits) == 1
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD]


async def test_a_lost_answer_is_not_tried_at_another_provider(
    runtime: Runtime, upstream: FakeUpstream, keys: Keys, config: Config
) -> None:
    other = FakeUpstream(name="other")
    second = UpstreamConfig(
        name="other",
        base_url="http://127.0.0.1:9/api/v3",
        credentials=(CredentialConfig(env="FAKE_CREDENTIAL"),),
    )
    both = config.model_copy(update={"upstreams": (*config.upstreams, second)})
    wide = replace(
        runtime,
        config=both,
        prices=open_prices(both, runtime.catalog),
        routing=make_routes(both),
        upstreams={"fake": upstream, "other": other},
    )
    upstream.submit_errors = [UpstreamAmbiguous("The connection closed without an answer.")]
    headers = {"Authorization": f"Bearer {keys.owner}"}
    async with listening(create_app(wide)) as port, httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"http://127.0.0.1:{port}{PATH}", json=BODY, headers=headers)

    assert answer.status_code == 200
    assert (len(upstream.submits), len(other.submits)) == (1, 0)


async def test_no_words_about_a_lost_answer_invite_to_pay_again(
    client: httpx.AsyncClient, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("No answer came.") for _ in range(9)]
    answers = []
    for number in range(6):
        content = [{"type": "text", "text": f"A fox {number}"}]
        answers.append(await client.post(PATH, json={"model": MODEL, "content": content}))

    refused = [each for each in answers if each.status_code != 200]
    assert [each.status_code for each in answers] == [200, 200, 503, 503, 503, 503]
    assert len(upstream.submits) == 2
    for each in refused:  # these may be sent again: they say that nothing was
        assert "nothing was sent or held" in error_of(each)["message"]
    assert "made twice" in OUTCOME_UNKNOWN.message
    assert clock.slept_s == []
