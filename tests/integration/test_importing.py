"""Tasks from before the switch: read and listed under their own ids, followed, never charged."""

import asyncio
from dataclasses import replace

import httpx
import pytest

from gateway.app import create_app
from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.domain.attempts import ListedTask
from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import IMPORTED_KEY, Event, Observation, Task, TaskState, advance
from gateway.errors import (
    ImportedTaskDeletion,
    InvalidRequest,
    NotFound,
    TaskNotFound,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
)
from gateway.ports import ListedPage, Runtime
from gateway.services import admin, operating
from gateway.services.auth import authenticate
from gateway.services.cancelling import cancel_task
from gateway.services.importing import (
    Fate,
    ImportReport,
    Source,
    import_ids,
    import_since,
)
from gateway.services.moves import record_move
from gateway.services.observing import observe_due
from gateway.services.status import TaskQuery, get_task, list_tasks
from gateway.services.submission import submit_task
from gateway.storage import attempts, audit, ledger, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import SURFACES
from tests.support.listening import listening

OLD = "cgt-20261121150102-abcde"
MODEL = "doubao-seedance-1-0-pro-250528"
BODY = {
    "model": MODEL,
    "content": [{"type": "text", "text": "a fox --resolution 480p --duration 5"}],
}
DONE = Observation(
    "succeeded",
    {"content": {"video_url": "https://v.example/x.mp4?s=1"}, "usage": {"completion_tokens": 9}},
)
SOURCE = Source("fake", "default")
DAY_MS = 86_400_000


def make_before(
    upstream: FakeUpstream,
    clock: FakeClock,
    upstream_task_id: str = OLD,
    observation: Observation = DONE,
    *,
    age_s: int = 86_400,
    model: str | None = MODEL,
) -> ListedTask:
    """Have a task at the upstream that was made without the gateway."""
    made_at_ms = (clock.now // 1000 - age_s) * 1000
    listed = ListedTask(
        upstream_task_id,
        made_at_ms,
        model=model,
        status=observation.status,
        observation=observation,
        updated_at_ms=made_at_ms + 90_000,
    )
    upstream.listed.append(listed)
    upstream.listed.sort(key=lambda task: task.created_at_ms or 0, reverse=True)
    upstream.shown[upstream_task_id] = observation
    return listed


async def import_week(runtime: Runtime, source: Source = SOURCE) -> ImportReport:
    since_ms = runtime.clock.now_ms() - 7 * DAY_MS
    return await import_since(runtime, "test", source, since_ms)


def fates_of(report: ImportReport) -> dict[str, str]:
    return {listed.upstream_task_id: fate.value for listed, fate in report.fates}


async def stored(runtime: Runtime, task_id: str) -> Task:
    found = await runtime.db.read(tasks.find, task_id)
    assert found is not None
    return found.task


async def test_a_finished_task_is_read_and_listed_under_its_own_id(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    made = make_before(upstream, clock)
    report = await import_week(runtime)
    task = (await get_task(runtime, principal, OLD)).task
    page = await list_tasks(runtime, principal, TaskQuery())

    assert fates_of(report) == {OLD: "imported"}
    assert task.is_imported
    assert (task.state, task.model, task.fields) == (TaskState.SUCCEEDED, MODEL, DONE.fields)
    assert (task.created_at_ms, task.updated_at_ms) == (made.created_at_ms, made.updated_at_ms)
    assert (task.key_id, task.family) == (IMPORTED_KEY, "seedance-1-0-pro")
    assert [entry.task.id for entry in page.entries] == [OLD]
    assert task.next_poll_at_ms is None


async def test_a_success_that_is_listed_without_its_video_is_looked_at_before_it_ends(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, observation=Observation("succeeded", {}))
    await import_week(runtime)
    listed = await stored(runtime, OLD)
    upstream.shown[OLD] = DONE
    clock.advance(600)
    await observe_due(runtime, upstream, "default")

    assert listed.state is TaskState.QUEUED
    looked_at = await stored(runtime, OLD)
    assert (looked_at.state, looked_at.fields) == (TaskState.SUCCEEDED, DONE.fields)


async def test_it_is_shown_on_every_surface_as_a_task_made_here(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock)
    await import_week(runtime)
    created = await admin.create_key(runtime, "test", "default")
    async with (
        listening(create_app(runtime)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        client.headers["Authorization"] = f"Bearer {created.key}"
        for surface in SURFACES:
            shown = (await client.get(f"{surface}/{OLD}")).raise_for_status().json()
            assert (shown["id"], shown["model"], shown["status"]) == (OLD, MODEL, "succeeded")
            assert shown["content"] == DONE.fields["content"]
            assert "gateway" not in shown
            listed = (await client.get(surface)).raise_for_status().json()
            assert [item["id"] for item in listed["items"]] == [OLD]
            refused = await client.delete(f"{surface}/{OLD}")
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "InvalidAction.ImportedTaskDeletion"
            assert "retry-after" not in refused.headers


async def test_an_unfinished_task_is_followed_to_its_end_and_never_charged(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, observation=Observation("running", {}), age_s=60)
    await import_week(runtime)
    running = (await get_task(runtime, principal, OLD)).task
    upstream.shown[OLD] = DONE
    clock.advance(120)
    await observe_due(runtime, upstream, "default")
    done = (await get_task(runtime, principal, OLD)).task

    assert (running.state, done.state) == (TaskState.RUNNING, TaskState.SUCCEEDED)
    assert done.bill is None
    assert await runtime.db.read(ledger.find_open, OLD) is None
    assert list(await runtime.db.read(ledger.list_entries, OLD)) == []
    assert await runtime.db.read(attempts.find, OLD) is None


async def test_an_imported_task_is_only_read(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock)
    make_before(upstream, clock, "old-2", Observation("queued", {}), age_s=60)
    await import_week(runtime)
    for task_id in (OLD, "old-2"):
        with pytest.raises(ImportedTaskDeletion):
            await cancel_task(runtime, principal, task_id)
    with pytest.raises(ImportedTaskDeletion):
        await operating.cancel(runtime, "test", "old-2")

    assert upstream.cancels == []
    assert upstream.gets == []
    assert (await get_task(runtime, principal, OLD)).task.state is TaskState.SUCCEEDED


async def test_another_import_changes_nothing(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, observation=Observation("running", {}), age_s=60)
    await import_week(runtime)
    before = await stored(runtime, OLD)
    upstream.shown[OLD] = DONE
    make_before(upstream, clock, "old-2")
    again = await import_week(runtime)

    assert fates_of(again) == {OLD: "known", "old-2": "imported"}
    assert await stored(runtime, OLD) == before
    assert fates_of(await import_week(runtime, replace(SOURCE, credential="default"))) == {
        OLD: "known",
        "old-2": "known",
    }
    with pytest.raises(TaskNotFound):
        await get_task(runtime, replace(principal, project_id="proj_other"), OLD)


async def test_tasks_older_than_asked_for_stay_where_they_are(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, "old-1", age_s=3 * 86_400)
    make_before(upstream, clock, "old-2", age_s=3600)
    report = await import_since(runtime, "test", SOURCE, clock.now - DAY_MS)

    assert fates_of(report) == {"old-2": "imported"}


async def test_a_long_list_is_read_to_its_end(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    for number in range(450):
        make_before(upstream, clock, f"old-{number}", age_s=1000 + number)
    report = await import_week(runtime)
    page = await list_tasks(runtime, principal, TaskQuery())

    assert report.count(Fate.IMPORTED) == page.total == 450
    assert report.is_complete


async def test_tasks_submitted_here_are_skipped(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.now_ms = clock.now_ms
    submitted = (await submit_task(runtime, principal, BODY, "req")).task
    make_before(upstream, clock)
    report = await import_week(runtime)

    assert fates_of(report) == {"up-1": "known", OLD: "imported"}
    assert (await stored(runtime, submitted.id)).upstream_task_id == "up-1"


async def test_what_may_be_of_a_lost_submission_is_left_to_the_reconciler(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.now_ms = clock.now_ms
    upstream.makes_lost_tasks = True
    upstream.submit_errors.append(UpstreamAmbiguous("No answer."))
    lost = (await submit_task(runtime, principal, BODY, "req")).task
    make_before(upstream, clock)
    report = await import_week(runtime)
    by_id = await import_ids(runtime, "test", SOURCE, ["up-1"])

    assert fates_of(report) == {"up-1": "unsettled", OLD: "imported"}
    assert fates_of(by_id) == {"up-1": "unsettled"}
    assert await runtime.db.read(tasks.find, "up-1") is None

    gone = advance(await stored(runtime, lost.id), Event.ABSENT, clock.now)
    evidence = Evidence(EvidenceKind.ABSENT, "three lists")
    await record_move(runtime, await stored(runtime, lost.id), gone, Event.ABSENT, evidence)
    assert fates_of(await import_week(runtime))["up-1"] == "orphan"


async def test_a_task_of_another_shape_is_not_taken_for_a_lost_one(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.submit_errors.append(UpstreamAmbiguous("No answer."))
    await submit_task(runtime, principal, BODY, "req")
    make_before(upstream, clock, "same", age_s=-5)
    make_before(upstream, clock, "other", age_s=-5, model="doubao-seedance-2-0-260128")
    report = await import_week(runtime)

    assert fates_of(report) == {"same": "unsettled", "other": "imported"}


async def test_single_tasks_are_imported_by_their_ids(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, "old-1")
    make_before(upstream, clock, "old-2")
    report = await import_ids(runtime, "test", SOURCE, ["old-2", "old-2"])

    assert fates_of(report) == {"old-2": "imported"}
    assert upstream.gets == ["old-2"]
    assert upstream.pages == []
    assert (await get_task(runtime, principal, "old-2")).task.is_imported


async def test_an_id_that_the_upstream_does_not_know_imports_nothing(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, "old-1")
    with pytest.raises(TaskNotFound):
        await import_ids(runtime, "test", SOURCE, ["old-1", "nobody-knows-it"])

    assert await runtime.db.read(tasks.find, "old-1") is None


async def test_an_upstream_that_is_away_imports_nothing(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock)
    upstream.list_error = UpstreamTimeout("away")
    with pytest.raises(UpstreamTimeout):
        await import_week(runtime)

    assert await runtime.db.read(tasks.find, OLD) is None


async def test_an_upstream_that_is_asked_too_often_is_asked_again_after_a_while(
    runtime: Runtime, clock: FakeClock
) -> None:
    class Busy(FakeUpstream):
        async def list_tasks(
            self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
        ) -> ListedPage:
            if len(self.pages) < 3:
                self.pages.append((credential, page_num, page_size))
                raise too_often
            return await super().list_tasks(
                credential, page_num=page_num, page_size=page_size, service_tier=service_tier
            )

    too_often = UpstreamRejected("Too often.", code="RateLimit", status=429, retry_after_s=7)
    busy = Busy()
    make_before(busy, clock)
    report = await import_week(replace(runtime, upstreams={"fake": busy}))

    assert fates_of(report) == {OLD: "imported"}
    assert len(clock.slept_s) == 3
    assert all(7 <= slept_s <= 11 for slept_s in clock.slept_s)


async def test_an_upstream_without_a_list_imports_by_id_alone(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, "12345", model=None)
    upstream.supports_list = False
    with pytest.raises(InvalidRequest, match="by their ids"):
        await import_week(runtime)
    await import_ids(runtime, "test", SOURCE, ["12345"])

    task = (await get_task(runtime, principal, "12345")).task
    assert (task.model, task.family) == ("unknown", "unknown")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("nowhere", "default"), "configured: fake"),
        (Source("fake", "default", "spare"), "configured: default"),
        (Source("fake", "nobody"), "no project"),
    ],
)
async def test_what_is_not_configured_is_told_by_name(
    runtime: Runtime, source: Source, message: str
) -> None:
    with pytest.raises(NotFound, match=message):
        await import_week(runtime, source)


async def test_the_same_id_at_two_upstreams_is_a_clash(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    other = FakeUpstream(name="other")
    make_before(upstream, clock, "12345")
    make_before(other, clock, "12345", Observation("running", {}))
    credentials = (CredentialConfig(env="UNUSED"),)
    config = UpstreamConfig(name="other", base_url="http://127.0.0.1:9", credentials=credentials)
    both: Config = runtime.config.model_copy(
        update={"upstreams": (*runtime.config.upstreams, config)}
    )
    wide = replace(runtime, config=both, upstreams={"fake": upstream, "other": other})
    await import_week(wide)
    before = await stored(runtime, "12345")
    report = await import_week(wide, Source("other", "default"))

    assert fates_of(report) == {"12345": "clash"}
    assert await stored(runtime, "12345") == before


async def test_a_status_word_that_nobody_knows_is_followed(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, observation=Observation("brewing", {}), age_s=60)
    await import_week(runtime)

    task = (await get_task(runtime, principal, OLD)).task
    assert task.state is TaskState.QUEUED
    assert task.next_poll_at_ms is not None


async def test_an_import_is_audited_once_for_each_task(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock)
    await import_week(runtime)
    await import_week(runtime)

    events = await runtime.db.read(audit.list_events, 0, 100)
    (event,) = (each for each in events if each.action == "task.imported")
    assert (event.actor, event.subject) == ("test", OLD)
    assert event.detail.startswith("upstream=fake credential=default project=proj_")


async def test_a_draft_from_before_can_be_built_on(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    make_before(upstream, clock, model="doubao-seedance-1-5-pro-251215")
    await import_week(runtime)
    body = {
        "model": "doubao-seedance-1-5-pro-251215",
        "content": [{"type": "draft_task", "draft_task": {"id": OLD}}],
    }
    await submit_task(runtime, principal, body, "req")

    assert upstream.submits[0].draft_task_id == OLD


async def test_a_task_of_another_project_stays_there_and_is_told_with_its_project(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await admin.create_project(runtime, "test", "p2")
    created = await admin.create_key(runtime, "test", "p2")
    second = await authenticate(runtime, created.key.encode())
    make_before(upstream, clock)
    await import_week(runtime)
    before = await stored(runtime, OLD)
    make_before(upstream, clock, "old-2")

    report = await import_week(runtime, Source("fake", "p2"))
    by_id = await import_ids(runtime, "test", Source("fake", "p2"), [OLD])
    back = await import_week(runtime)

    assert fates_of(report) == {OLD: "foreign", "old-2": "imported"}
    assert report.owners == by_id.owners == {OLD: "default"}
    assert fates_of(back) == {OLD: "known", "old-2": "foreign"}
    assert back.owners == {"old-2": "p2"}
    assert await stored(runtime, OLD) == before
    assert (await get_task(runtime, principal, OLD)).task == before
    with pytest.raises(TaskNotFound):
        await get_task(runtime, second, OLD)


async def test_two_imports_at_once_for_two_projects_tell_whose_a_task_is(
    runtime: Runtime, upstream: FakeUpstream, clock: FakeClock
) -> None:
    await admin.create_project(runtime, "test", "p2")
    make_before(upstream, clock)

    reports = await asyncio.gather(import_week(runtime), import_week(runtime, Source("fake", "p2")))

    assert sorted(fates_of(report)[OLD] for report in reports) == ["foreign", "imported"]
    (foreign,) = (report for report in reports if report.count(Fate.FOREIGN))
    (home,) = (report for report in reports if report.count(Fate.IMPORTED))
    assert foreign.owners == {OLD: home.project.name}
