"""A probe: one real task, held and metered, watched for the markers that come back."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import sqlalchemy as sa

from gateway.domain.attempts import ListedTask
from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.echoes import EchoReport, Marker
from gateway.domain.keys import Principal
from gateway.domain.projects import AuditEvent
from gateway.domain.tasks import Observation, TaskState
from gateway.errors import (
    InvalidRequest,
    LedgerDifference,
    NotFound,
    Reconciling,
    UpstreamAmbiguous,
    UpstreamUnavailable,
)
from gateway.ports import ListedPage, Runtime
from gateway.services import probing, sweeping
from gateway.services.judging import policy_of
from gateway.services.probing import Probed
from gateway.storage import audit, backup, meta, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import SUCCESS, accept, evidence_of, lose, pass_time, state_of, tuned


class Living(FakeUpstream):
    """An upstream whose tasks run from 30 s on and succeed at 90 s; seeds are shown as told."""

    shows_seed: Callable[[str, int | None], int | None] = staticmethod(lambda _, seed: seed)
    list_lag_s: float = 0.0
    clock: FakeClock

    def _as_it_is(self, task: ListedTask) -> ListedTask:
        age_s = (self.clock.now - (task.created_at_ms or 0)) / 1000
        shown = Observation("queued", {})
        if age_s >= 30:
            shown = SUCCESS if age_s >= 90 else Observation("running", {})
        self.shown[task.upstream_task_id] = shown
        listed = super()._as_it_is(task)
        return replace(listed, seed=self.shows_seed(shown.status, task.seed))

    async def find_task(self, credential: str, upstream_task_id: str) -> ListedTask | None:
        found = await super().find_task(credential, upstream_task_id)
        return None if found is None else self._as_it_is(found)

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        page = await super().list_tasks(
            credential, page_num=page_num, page_size=page_size, service_tier=service_tier
        )
        latest_ms = self.clock.now - int(self.list_lag_s * 1000)
        items = [task for task in page.items if (task.created_at_ms or 0) <= latest_ms]
        return replace(page, items=items)


@pytest.fixture
def upstream(clock: FakeClock) -> Living:
    living = Living(now_ms=clock.now_ms)
    living.clock = clock
    return living


async def probe(runtime: Runtime, wait_s: float = 900.0) -> Probed:
    plan = await probing.plan_probe(runtime, "default")
    return await probing.run_probe(runtime, "cli", plan, wait_s)


async def report_of(runtime: Runtime) -> EchoReport:
    report = (await probe(runtime)).report
    assert report is not None
    return report


async def test_the_cheapest_task_is_chosen(runtime: Runtime) -> None:
    plan = await probing.plan_probe(
        runtime, "default", model="doubao-seedance-1-0-pro-250528", upstream="fake"
    )

    assert (plan.upstream, plan.credential) == ("fake", "default")
    assert plan.body["resolution"] == "480p"
    assert plan.body["duration"] == 2
    assert 0 < plan.cost_micros_max < 1_000_000


async def test_without_a_model_the_cheapest_of_those_that_the_upstream_names_is_chosen(
    runtime: Runtime,
) -> None:
    named = await probing.plan_probe(runtime, "default")
    free = tuned(runtime, upstream={"models": {}})
    free = replace(
        free,
        routing=replace(free.routing, upstreams=[replace(free.routing.upstreams[0], models={})]),
    )
    vendors = await probing.plan_probe(free, "default")

    assert named.model == "house-model"
    assert vendors.cost_micros_max <= named.cost_micros_max


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"upstream": "elsewhere"}, "no upstream elsewhere"),
        ({"credential": "spare"}, "no credential spare"),
        ({"model": "seedance-9"}, "not configured"),
    ],
)
async def test_names_that_are_not_configured_are_refused(
    runtime: Runtime, chosen: dict[str, str], words: str
) -> None:
    with pytest.raises((InvalidRequest, NotFound), match=words):
        await probing.plan_probe(runtime, "default", **chosen)


async def test_an_unknown_project_is_refused(runtime: Runtime) -> None:
    with pytest.raises(NotFound):
        await probing.plan_probe(runtime, "nobody")


async def test_a_probe_is_held_sent_once_and_settled(runtime: Runtime, upstream: Living) -> None:
    probed = await probe(runtime)

    assert probed.task.state is TaskState.SUCCEEDED
    assert probed.task.key_id == "probe"
    assert len(upstream.submits) == 1
    assert await evidence_of(runtime, probed.task.id) == (EntryKind.SETTLE, EvidenceKind.ENDED)
    events = await runtime.db.read(audit.list_events, 0, 10)
    assert ("upstream.probed", "fake/default") in {(each.action, each.subject) for each in events}


async def test_every_marker_is_sent_and_seen_at_once_where_all_are_listed(
    runtime: Runtime, upstream: Living
) -> None:
    report = await report_of(runtime)

    assert set(report.echoes) == set(Marker)
    for echo in report.echoes.values():
        assert echo.listed is not None
        assert (echo.listed.status, echo.is_contradicted) == ("queued", False)
    markers = upstream.submits[0].markers
    assert markers.safety_identifier is not None
    assert not runtime.config.upstreams[0].markers.safety_identifier


async def test_a_marker_that_shows_at_the_end_only_is_reported_so(
    runtime: Runtime, upstream: Living
) -> None:
    upstream.shows_seed = lambda status, seed: seed if status == "succeeded" else None

    seed = (await report_of(runtime)).echoes[Marker.SEED]

    assert seed.listed is not None
    assert seed.listed.status == "succeeded"
    assert 85_000 <= seed.listed.after_ms <= 100_000


async def test_a_marker_that_once_showed_another_value_is_not_believed(
    runtime: Runtime, upstream: Living
) -> None:
    upstream.shows_seed = lambda status, seed: seed if status == "succeeded" else 7

    report = await report_of(runtime)

    assert report.echoes[Marker.SEED].is_contradicted
    facts = await runtime.db.read(meta.find_of_account, "fake", "default")
    policy = policy_of(runtime, "fake", facts, 0)
    assert (policy.echoes_seed, policy.echoes_expires_after) == (False, True)


async def test_what_a_probe_saw_decides_how_lists_are_judged(
    runtime: Runtime, upstream: Living
) -> None:
    before = policy_of(runtime, "fake", {}, 0)
    upstream.list_lag_s = 50.0

    await report_of(runtime)

    facts = await runtime.db.read(meta.find_of_account, "fake", "default")
    policy = policy_of(runtime, "fake", facts, 0)
    assert not before.echoes_seed
    assert policy.echoes_seed
    assert policy.echoes_safety_identifier
    assert 95_000 <= policy.list_lag_ms <= 115_000


async def test_a_second_probe_soon_after_the_first_sends_a_task_of_its_own(
    runtime: Runtime, upstream: Living, clock: FakeClock
) -> None:
    first = await probe(runtime)
    clock.advance(120)
    second = await probe(replace(runtime, process_id="another-command"))

    assert second.task.id != first.task.id
    assert len(upstream.submits) == 2
    assert second.report is not None


def with_refusals(runtime: Runtime) -> Runtime:
    ledger = runtime.config.ledger.model_copy(update={"refuse_on_difference": True})
    return replace(runtime, config=runtime.config.model_copy(update={"ledger": ledger}))


async def test_where_a_difference_closes_the_gateway_a_probe_audits_the_books_first(
    runtime: Runtime, upstream: Living
) -> None:
    runtime = with_refusals(runtime)
    assert runtime.audit.at_ms is None

    assert (await probe(runtime)).report is not None

    more = "UPDATE balances SET spent_micros = spent_micros + :micros"

    def add(conn: sa.Connection, micros: int) -> None:
        conn.execute(sa.text(more), {"micros": micros})

    await runtime.db.write(add, 1)
    with pytest.raises(LedgerDifference):
        await probe(runtime)
    assert len(upstream.submits) == 1
    await runtime.db.write(add, -1)


async def test_after_a_restore_a_probe_waits_for_the_comparison_like_every_submit(
    runtime: Runtime, upstream: Living, clock: FakeClock
) -> None:
    event = AuditEvent("evt_marked", clock.now, "cli", "database.restored", "")
    await runtime.db.write(backup.mark_restored, event)

    with pytest.raises(Reconciling) as caught:
        await probe(runtime)

    assert caught.value.public_code == "Reconciling"
    assert not upstream.submits


async def test_a_server_does_not_take_the_submission_of_a_running_probe_for_lost(
    runtime: Runtime, upstream: Living, clock: FakeClock
) -> None:
    await sweeping.announce(runtime)
    upstream.gate = asyncio.Event()
    command = replace(runtime, process_id="a-command")
    async with asyncio.TaskGroup() as group:
        probing_ = group.create_task(probe(command))
        await upstream.asked.wait()
        await sweeping.announce(runtime)

        assert await sweeping.sweep_lost_submissions(runtime) == 0

        clock.advance(2)
        upstream.gate.set()
    assert probing_.result().task.state is TaskState.SUCCEEDED


async def test_a_lost_probe_is_left_to_the_reconciler(runtime: Runtime, upstream: Living) -> None:
    upstream.makes_lost_tasks = True
    upstream.submit_errors = [UpstreamAmbiguous("The connection closed without an answer.")]

    probed = await probe(runtime)

    assert probed.report is None
    assert probed.task.state is TaskState.UNKNOWN
    assert len(upstream.submits) == 1
    assert meta.AccountFact.PROBE not in await runtime.db.read(
        meta.find_of_account, "fake", "default"
    )


async def test_reads_that_fail_meanwhile_are_made_again(runtime: Runtime, upstream: Living) -> None:
    upstream.list_error = UpstreamUnavailable("No answer.")

    probed = await probe(runtime, 60.0)

    assert probed.report is not None
    assert probed.report.listed is None
    assert probed.report.echoes[Marker.SEED].read is not None
    assert probed.task.state is TaskState.RUNNING


async def test_an_upstream_without_a_list_is_read_alone(runtime: Runtime, upstream: Living) -> None:
    upstream.supports_list = False

    report = await report_of(runtime)

    assert not upstream.pages
    assert report.listed is None
    assert report.echoes[Marker.SEED].read is not None


async def test_a_probe_spends_from_the_budgets_of_its_project(
    runtime: Runtime, principal: Principal
) -> None:
    await accept(runtime, principal)
    await probe(runtime)

    found = await runtime.db.read(tasks.list_all, 10)
    assert {task.project_id for task in found} == {principal.project_id}


async def test_where_seeds_are_listed_a_task_with_another_seed_disputes_nothing(
    runtime: Runtime, principal: Principal, upstream: Living, clock: FakeClock
) -> None:
    await probe(runtime)
    clock.advance(120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    upstream.make(upstream.submits[-1], "up-other")
    upstream.listed[0] = replace(upstream.listed[0], seed=99)

    await pass_time(runtime, upstream, clock, 3600)

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ABSENT)
    assert await state_of(runtime, task_id) is TaskState.FAILED
