"""How other gateways lost or took money once a task was made, one test each: named after it.

docs/promises.md has the table with the numbers of their issues, and the failures that other tests
prove the absence of. Those of submitting are in test_rivals_submits.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx
import pytest

from gateway.app import create_app
from gateway.config import Config
from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.limits import Account, Metric
from gateway.domain.tasks import Observation
from gateway.errors import (
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.ports import Runtime
from gateway.runtime import open_prices
from gateway.services.observing import observe_due
from gateway.storage import tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import BODY, SURFACES, Keys, submit
from tests.support.listening import listening
from tests.support.spending import (
    CHARGE,
    HOLD,
    ROOMY,
    TOKENS,
    entries_of,
    find_accounts,
    kinds_of,
    look,
    set_limits,
    succeeded,
    used_of,
)

PATH = SURFACES[0]


@pytest.fixture
async def accounts(runtime: Runtime, keys: Keys) -> Sequence[Account]:
    """Organization, project and key of the client."""
    return await find_accounts(runtime, keys)


async def test_a_poll_timeout_refunds_nothing_while_the_upstream_still_bills(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await submit(client)
    upstream.read_error = UpstreamTimeout("no answer")
    for _ in range(60):  # ten errors, an hour, a day: others gave up after each of these
        await look(runtime, upstream, clock, 3000)

    assert (await client.get(f"{PATH}/{task_id}")).json()["status"] == "queued"
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD]
    upstream.read_error = None
    upstream.shown["up-1"] = succeeded()
    await look(runtime, upstream, clock, 3000)
    assert (await client.get(f"{PATH}/{task_id}")).json()["gateway"]["cost_micros"] == CHARGE
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.SETTLE]


async def test_errors_spread_over_a_tasks_life_do_not_add_up_to_its_failure(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await submit(client)
    upstream.shown["up-1"] = Observation("running", {})
    for _ in range(15):
        upstream.read_error = UpstreamTimeout("no answer")
        await look(runtime, upstream, clock, 600)
        upstream.read_error = None
        await look(runtime, upstream, clock, 600)
    assert len(upstream.gets) == 30
    upstream.shown["up-1"] = succeeded()
    await look(runtime, upstream, clock, 600)

    assert (await client.get(f"{PATH}/{task_id}")).json()["status"] == "succeeded"
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.SETTLE]


async def test_a_task_is_settled_though_its_client_never_polls_it(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, {Metric.MONEY: 10**12})
    await submit(client)
    upstream.shown["up-1"] = succeeded()

    await look(runtime, upstream, clock, 60)

    assert await used_of(client) == [(CHARGE, 0)] * 3


async def test_what_is_billed_is_what_was_made_and_not_what_was_asked_for(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts[:1], {Metric.MONEY: 10**12, Metric.SECONDS: 10_000})
    task_id = await submit(client)  # of 5 s
    upstream.shown["up-1"] = succeeded(98_010, duration=10)

    await look(runtime, upstream, clock, 60)

    assert await used_of(client) == [(98_010 * 15, 0), (10, 0)]
    _, settled = await entries_of(runtime, task_id)
    assert (settled.spent.tokens, settled.cost_micros) == (98_010, 98_010 * 15)


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
async def test_a_task_that_made_no_video_costs_nothing(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    status: str,
) -> None:
    task_id = await submit(client)
    upstream.shown["up-1"] = Observation(status, {"usage": {"completion_tokens": TOKENS}})

    await look(runtime, upstream, clock, 60)

    assert (await client.get(f"{PATH}/{task_id}")).json()["status"] == status
    _, released = await entries_of(runtime, task_id)
    assert released.kind is EntryKind.RELEASE
    assert (released.spent.micros, released.cost_micros) == (0, 0)


async def test_a_refund_gives_back_every_amount_that_was_taken(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, ROOMY)
    before = await used_of(client)
    task_id = await submit(client)
    during = await used_of(client)
    upstream.shown["up-1"] = Observation("failed", {})
    await look(runtime, upstream, clock, 60)

    assert all(held > 0 for _, held in during)
    assert await used_of(client) == before
    held, released = await entries_of(runtime, task_id)
    assert released.held == -held.held
    assert held.held.micros == HOLD


async def test_a_second_sight_of_an_end_refunds_nothing_more(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, ROOMY)
    task_id = await submit(client)
    stored = await runtime.db.read(tasks.find, task_id)
    assert stored is not None
    upstream.shown["up-1"] = Observation("failed", {})
    clock.advance(60)
    await observe_due(runtime, upstream, "default")
    again = await client.delete(f"{PATH}/{task_id}")

    assert again.status_code == 200
    assert await used_of(client) == [(0, 0)] * 15
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.RELEASE]


async def test_a_price_that_changes_meanwhile_touches_no_task_in_progress(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    config: Config,
) -> None:
    task_id = await submit(client)
    dearer = config.upstreams[0].model_copy(update={"discount": "0.5"})
    finance = config.finance.model_copy(update={"markup": config.finance.markup * 3})
    changed = config.model_copy(update={"upstreams": (dearer,), "finance": finance})
    later = replace(runtime, config=changed, prices=open_prices(changed, runtime.catalog))
    upstream.shown["up-1"] = succeeded()

    await look(later, upstream, clock, 60)

    held, settled = await entries_of(runtime, task_id)
    assert (settled.spent.micros, settled.cost_micros) == (CHARGE, CHARGE)
    assert settled.price_version == held.price_version


async def test_reading_a_task_that_has_ended_costs_nothing_more(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts, {Metric.MONEY: 10**12})
    task_id = await submit(client)
    upstream.shown["up-1"] = succeeded()
    await look(runtime, upstream, clock, 60)
    for path in SURFACES:
        for _ in range(10):
            await client.get(f"{path}/{task_id}")
        await client.get(path)

    assert await used_of(client) == [(CHARGE, 0)] * 3
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.SETTLE]


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": 0}, {"completion_tokens": "9"}])
async def test_a_success_without_usable_tokens_is_not_free(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    usage: object,
) -> None:
    task_id = await submit(client)
    upstream.shown["up-1"] = Observation("succeeded", {} if usage is None else {"usage": usage})

    await look(runtime, upstream, clock, 60)

    _, settled = await entries_of(runtime, task_id)
    assert (settled.spent.micros, settled.is_estimated) == (HOLD, True)
    assert runtime.metrics.estimated_settlements.values["seedance-1-0-pro",] == 1


async def test_more_tokens_than_were_held_are_charged_all_the_same(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts[:1], {Metric.MONEY: HOLD})
    await submit(client)
    upstream.shown["up-1"] = succeeded(60_000)

    await look(runtime, upstream, clock, 60)

    assert await used_of(client) == [(60_000 * 15, 0)]
    assert runtime.metrics.overages.values["seedance-1-0-pro",] == 1
    assert (await client.post(PATH, json=BODY)).status_code == 402


@dataclass
class Witness(FakeUpstream):
    """Remembers by which credential it was asked."""

    asked_by: list[str] = field(default_factory=list)

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        self.asked_by.append(credential)
        return await FakeUpstream.observe(self, credential, upstream_task_id)


async def test_a_task_is_read_by_the_credential_that_submitted_it(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await submit(client)
    witness = Witness(credentials=("newer", "default"), shown={"up-1": succeeded()})
    rotated = replace(runtime, upstreams={"fake": witness})
    clock.advance(60)
    for credential in witness.credentials:
        await observe_due(rotated, witness, credential)

    assert witness.asked_by == ["default"]
    assert upstream.submits[0].credential == "default"


async def test_an_upstream_that_is_taken_away_takes_no_money_with_it(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task_id = await submit(client)
    clock.advance(86_400)
    without = replace(runtime, upstreams={})
    async with listening(create_app(without)) as port:
        shown = await client.get(f"http://127.0.0.1:{port}{PATH}/{task_id}")

    assert shown.json()["status"] == "queued"
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD]
    upstream.shown["up-1"] = succeeded()
    await look(runtime, upstream, clock, 60)
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.SETTLE]


async def test_a_task_that_the_upstream_denies_is_not_refunded_without_evidence(
    client: httpx.AsyncClient,
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    accounts: Sequence[Account],
) -> None:
    await set_limits(runtime, accounts[:1], {Metric.MONEY: 10**12, Metric.TASKS: 9})
    task_id = await submit(client)
    del upstream.shown["up-1"]
    for _ in range(12):
        await look(runtime, upstream, clock, 120)

    assert (await client.get(f"{PATH}/{task_id}")).json()["status"] == "failed"
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD]
    assert await used_of(client) == [(0, HOLD), (0, 0)]


async def test_a_clip_that_is_finished_is_settled_though_telling_its_client_fails(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    body = {**BODY, "callback_url": "https://receiver.invalid/nobody-listens"}
    task_id = (await client.post(PATH, json=body)).raise_for_status().json()["id"]
    upstream.shown["up-1"] = succeeded()

    await look(runtime, upstream, clock, 60)

    assert (await client.get(f"{PATH}/{task_id}")).json()["status"] == "succeeded"
    assert await kinds_of(runtime, task_id) == [EntryKind.HOLD, EntryKind.SETTLE]


async def test_every_end_says_on_which_evidence_money_moved(
    client: httpx.AsyncClient, runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.submit_errors = [
        UpstreamRejected("Bad words.", code="InputTextSensitiveContentDetected", status=400)
    ]
    await client.post(PATH, json=BODY)
    ended = await submit(client)
    cancelled = await submit(client)
    await client.delete(f"{PATH}/{cancelled}")
    upstream.shown["up-2"] = succeeded()
    await look(runtime, upstream, clock, 60)

    found: dict[str, EvidenceKind] = {}
    for task in await runtime.db.read(tasks.list_all, 10):
        evidence = (await entries_of(runtime, task.id))[-1].evidence
        assert evidence is not None
        found[task.id] = evidence.kind
    assert found.pop(ended) is EvidenceKind.ENDED
    assert found.pop(cancelled) is EvidenceKind.CANCELLED
    assert list(found.values()) == [EvidenceKind.REJECTED]
