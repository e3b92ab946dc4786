"""Submit and cancel through the services, on a real store, with an upstream that obeys the test."""

import asyncio
import gc
import io
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from gateway.clock import SystemClock
from gateway.config import Config
from gateway.domain.keys import Principal
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Observation, TaskError, TaskState
from gateway.errors import (
    AccessDenied,
    CancellationUnsupported,
    Draining,
    ModelNotFound,
    Overloaded,
    RunningTaskDeletion,
    StorageUnavailable,
    SubmissionUnconfirmed,
    TaskNotFound,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.services.cancelling import cancel_task, cancel_unfinished
from gateway.services.observing import look_at, observe_due
from gateway.services.status import get_task
from gateway.services.submission import Submitted, submit_task
from gateway.services.sweeping import sweep_lost_submissions
from gateway.storage import tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream

MODEL = "doubao-seedance-1-0-pro-250528"


def a_body(text: str = "a fox at dusk --resolution 480p", model: str = MODEL) -> dict[str, object]:
    return {"model": model, "content": [{"type": "text", "text": text}]}


async def states(runtime: Runtime) -> list[TaskState]:
    return [task.state for task in await runtime.db.read(tasks.list_all, 100)]


async def settle(runtime: Runtime) -> None:
    """Let everything in the background end."""
    await runtime.background.drain()


async def test_a_submit_is_answered_with_our_id_and_keeps_the_upstreams(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    submitted = await submit_task(runtime, principal, a_body(), "req")

    stored = await runtime.db.read(tasks.find, submitted.task.id)
    assert stored is not None
    assert stored.task.state is TaskState.QUEUED
    assert stored.task.upstream_task_id == "up-1"
    assert stored.task.upstream_request_id == "req-1"
    assert stored.task.next_poll_at_ms is not None
    assert len(upstream.submits) == 1


async def test_the_row_is_committed_before_the_first_byte(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        stored = await runtime.db.read(tasks.find, upstream.submits[0].attempt_id)
        upstream.gate.set()

    assert stored is not None
    assert stored.task.state is TaskState.RESERVED
    assert request.result().task.state is TaskState.QUEUED


async def test_what_is_sent_is_the_normalized_form(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    await submit_task(runtime, principal, a_body("a fox --rs 480p --dur 5"), "req")

    request = upstream.submits[0].request
    assert request.parameters.resolution == "480p"
    assert request.parameters.duration == 5


async def test_an_alias_is_sent_as_its_deployment(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    submitted = await submit_task(runtime, principal, a_body(model="house-model"), "req")

    assert submitted.task.model == "house-model"
    assert upstream.submits[0].deployment == "ep-20261122-house"


async def test_a_model_that_is_not_configured_is_the_vendors_404(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await submit_task(runtime, principal, a_body(model="seedance-9"), "req")

    assert "not configured in this gateway" in caught.value.message
    assert not upstream.submits
    assert not await states(runtime)


async def test_a_key_may_use_its_models_only(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    narrow = replace(principal, models=("doubao-seedance-2-0-260128",))

    with pytest.raises(AccessDenied):
        await submit_task(runtime, narrow, a_body(), "req")

    assert not upstream.submits


async def test_a_lost_answer_is_an_id_and_an_unknown_task_that_is_never_sent_again(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("The connection closed without an answer.")]

    submitted = await submit_task(runtime, principal, a_body(), "req")
    clock.advance(86_400)
    await sweep_lost_submissions(runtime)
    await observe_due(runtime, upstream, "default")

    assert submitted.task.state is TaskState.UNKNOWN
    assert await states(runtime) == [TaskState.UNKNOWN]
    assert len(upstream.submits) == 1
    assert not upstream.gets


async def test_a_defect_while_sending_is_a_lost_answer_too(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [RuntimeError("boom")]

    submitted = await submit_task(runtime, principal, a_body(), "req")

    assert submitted.task.state is TaskState.UNKNOWN


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRejected("Bad words.", code="InputTextSensitiveContentDetected", status=400),
        UpstreamAccount("The upstream account can't be used."),
    ],
)
async def test_a_definite_no_reaches_the_client_and_leaves_an_audit_row(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, error: Exception
) -> None:
    upstream.submit_errors = [error]

    with pytest.raises(type(error)):
        await submit_task(runtime, principal, a_body(), "req")

    assert await states(runtime) == [TaskState.REJECTED]
    with pytest.raises(TaskNotFound):
        await get_task(runtime, principal, upstream.submits[0].attempt_id)


async def test_only_a_submit_that_never_left_is_sent_again(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.submit_errors = [UpstreamUnavailable("refused"), UpstreamUnavailable("refused")]

    submitted = await submit_task(runtime, principal, a_body(), "req")

    assert submitted.task.state is TaskState.QUEUED
    assert len(upstream.submits) == 3
    assert len({each.attempt_id for each in upstream.submits}) == 1
    assert len(clock.slept_s) == 2


async def test_an_upstream_that_is_away_is_told_after_all_tries(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamUnavailable("refused") for _ in range(3)]

    with pytest.raises(UpstreamUnavailable):
        await submit_task(runtime, principal, a_body(), "req")

    assert await states(runtime) == [TaskState.REJECTED]


async def test_a_client_that_hangs_up_changes_nothing(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        request.cancel()
    upstream.gate.set()
    await settle(runtime)

    assert await states(runtime) == [TaskState.QUEUED]


class TestSlowUpstream:
    """The client's patience ends before the upstream's answer comes."""

    @pytest.fixture
    def config(self, config: Config) -> Config:
        submit = config.submit.model_copy(update={"client_wait_s": 0.05})
        return config.model_copy(update={"submit": submit})

    async def test_the_client_gets_its_id_and_the_answer_reaches_the_task(
        self, runtime: Runtime, principal: Principal, upstream: FakeUpstream
    ) -> None:
        upstream.gate = asyncio.Event()

        submitted = await submit_task(runtime, principal, a_body(), "req")
        before = await get_task(runtime, principal, submitted.task.id)
        upstream.gate.set()
        await settle(runtime)
        after = await get_task(runtime, principal, submitted.task.id)

        assert before.task.state is TaskState.RESERVED
        assert after.task.state is TaskState.QUEUED

    async def test_a_late_refusal_becomes_a_failed_task_with_the_vendors_error(
        self, runtime: Runtime, principal: Principal, upstream: FakeUpstream
    ) -> None:
        upstream.gate = asyncio.Event()
        upstream.submit_errors = [
            UpstreamRejected(
                "timeout while fetching resource.", code="InvalidParameter", status=400
            )
        ]

        submitted = await submit_task(runtime, principal, a_body(), "req")
        upstream.gate.set()
        await settle(runtime)
        after = await get_task(runtime, principal, submitted.task.id)

        assert after.task.state is TaskState.FAILED
        assert after.task.error == TaskError("InvalidParameter", "timeout while fetching resource.")


async def test_nothing_is_sent_when_the_store_does_not_take_the_row(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    await runtime.db.close()

    with pytest.raises(StorageUnavailable):
        await submit_task(runtime, principal, a_body(), "req")

    assert not upstream.submits


async def test_an_outcome_that_cannot_be_stored_still_gives_the_client_its_id(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        await runtime.db.close()
        upstream.gate.set()

    assert request.result().task.id == upstream.submits[0].attempt_id
    assert request.result().task.state is TaskState.RESERVED


async def test_a_draining_process_takes_no_submit(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    runtime.lifecycle.is_draining = True

    with pytest.raises(Draining):
        await submit_task(runtime, principal, a_body(), "req")

    assert not upstream.submits


async def test_more_submits_than_allowed_at_once_are_turned_away(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    submit = runtime.config.submit.model_copy(update={"in_flight_max": 1})
    narrow = replace(runtime, config=runtime.config.model_copy(update={"submit": submit}))
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(submit_task(narrow, principal, a_body(), "req"))
        await upstream.asked.wait()
        with pytest.raises(Overloaded):
            await submit_task(narrow, principal, a_body(), "req")
        upstream.gate.set()

    assert len(upstream.submits) == 1


async def test_a_submission_past_its_deadline_is_unknown_until_its_answer_comes_after_all(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        clock.advance(600)
        early = await sweep_lost_submissions(runtime)
        clock.advance(200)
        late = await sweep_lost_submissions(runtime)
        given_up = await states(runtime)
        request.cancel()
    upstream.gate.set()
    await settle(runtime)

    assert (early, late) == (0, 1)
    assert given_up == [TaskState.UNKNOWN]
    assert await states(runtime) == [TaskState.QUEUED]


async def test_cancelling_a_queued_task_cancels_it_upstream_first(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    await cancel_task(runtime, principal, task.id)

    assert upstream.cancels == ["up-1"]
    assert (await get_task(runtime, principal, task.id)).task.state is TaskState.CANCELLED


async def test_a_task_that_ended_meanwhile_is_not_deleted_upstream_with_its_usage(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task
    upstream.shown["up-1"] = Observation("succeeded", {"usage": {"completion_tokens": 7}})

    await cancel_task(runtime, principal, task.id)

    stored = await runtime.db.read(tasks.find, task.id)
    assert not upstream.cancels
    assert stored is not None
    assert stored.task.state is TaskState.SUCCEEDED
    assert stored.task.fields == {"usage": {"completion_tokens": 7}}
    assert (await get_task(runtime, principal, task.id)).task.state is TaskState.SUCCEEDED


@dataclass
class SeenFirst(FakeUpstream):
    """Lets an observer see this of a task, before it answers that it was cancelled."""

    runtime: Runtime | None = None
    seen: Observation = field(default_factory=lambda: Observation("", {}))

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        assert self.runtime is not None
        (task,) = await self.runtime.db.read(tasks.list_all, 10)
        self.shown[upstream_task_id] = self.seen
        await look_at(self.runtime, task)
        await super().cancel(credential, upstream_task_id)


@pytest.mark.parametrize("end", ["succeeded", "cancelled", "running"])
async def test_a_cancel_that_comes_after_another_observer_answers_by_what_that_one_saw(
    runtime: Runtime, principal: Principal, end: str
) -> None:
    fields = {"usage": {"completion_tokens": 7}} if end == "succeeded" else {}
    upstream = SeenFirst(seen=Observation(end, fields))
    runtime = replace(runtime, upstreams={"fake": upstream})
    upstream.runtime = runtime
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    if end == "running":
        with pytest.raises(RunningTaskDeletion):
            await cancel_unfinished(runtime, task)
    else:
        assert await cancel_unfinished(runtime, task) == (end == "cancelled")

    assert upstream.cancels == ["up-1"]
    assert await states(runtime) == [TaskState(end)]


async def test_a_cancel_that_is_repeated_changes_nothing_and_a_later_delete_hides_the_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    await asyncio.gather(*(cancel_task(runtime, principal, task.id) for _ in range(8)))
    clock.advance(30)
    await cancel_task(runtime, principal, task.id)
    repeated = await get_task(runtime, principal, task.id)
    clock.advance(31)
    await cancel_task(runtime, principal, task.id)

    assert set(upstream.cancels) == {"up-1"}
    assert repeated.task.state is TaskState.CANCELLED
    with pytest.raises(TaskNotFound):
        await get_task(runtime, principal, task.id)


async def test_a_running_task_is_not_cancelled(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task
    upstream.shown["up-1"] = Observation("running", {})

    with pytest.raises(RunningTaskDeletion):
        await cancel_task(runtime, principal, task.id)

    assert not upstream.cancels


async def test_a_task_whose_submission_is_unconfirmed_is_not_cancelled(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("lost")]
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    with pytest.raises(SubmissionUnconfirmed) as caught:
        await cancel_task(runtime, principal, task.id)

    assert caught.value.retry_after_s is not None


async def test_an_upstream_that_cannot_cancel_is_said_so(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    upstream.supports_cancel = False
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    with pytest.raises(CancellationUnsupported):
        await cancel_task(runtime, principal, task.id)


async def test_a_stranger_cannot_cancel(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    with pytest.raises(TaskNotFound):
        await cancel_task(runtime, stranger, task.id)

    assert not upstream.cancels


async def test_a_draft_is_the_projects_own_and_pins_the_route(
    runtime: Runtime, principal: Principal, stranger: Principal, upstream: FakeUpstream
) -> None:
    model = "doubao-seedance-2-5-260628"
    draft = (await submit_task(runtime, principal, a_body("a fox", model), "req")).task
    body = {
        "model": model,
        "content": [{"type": "draft_task", "draft_task": {"id": draft.id}}],
    }

    with pytest.raises(TaskNotFound) as caught:
        await submit_task(runtime, stranger, body, "req")
    await submit_task(runtime, principal, body, "req")

    assert caught.value.param == "content[0].draft_task.id"

    assert [each.draft_task_id for each in upstream.submits] == [None, "up-1"]


async def test_no_prompt_and_no_credential_is_logged(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, log_stream: io.StringIO
) -> None:
    upstream.submit_errors = [UpstreamAmbiguous("lost")]

    await submit_task(runtime, principal, a_body("prompt-canary"), "req")

    assert "task.state_changed" in log_stream.getvalue()
    assert "canary" not in log_stream.getvalue()


async def test_a_task_whose_upstream_is_gone_from_the_configuration_is_told_so(
    runtime: Runtime, principal: Principal
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task

    with pytest.raises(UpstreamAccount):
        await cancel_task(replace(runtime, upstreams={}), principal, task.id)


async def test_a_refused_account_is_an_alarm(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, log_stream: io.StringIO
) -> None:
    refused = UpstreamAccount("The upstream refuses this gateway's own account.")
    refused.add_note("upstream said 403 AccountOverdueError")
    upstream.submit_errors = [refused]

    with pytest.raises(UpstreamAccount):
        await submit_task(runtime, principal, a_body(), "req")

    assert "upstream.account_refused" in log_stream.getvalue()
    assert "AccountOverdueError" in log_stream.getvalue()


async def test_an_upstream_that_gives_one_id_twice_gets_the_second_task_lost(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    first = (await submit_task(runtime, principal, a_body(), "req")).task
    upstream.submits.clear()  # so that it counts from one again

    second = (await submit_task(runtime, principal, a_body(), "req")).task

    assert first.state is TaskState.QUEUED
    assert second.state is TaskState.UNKNOWN
    assert second.upstream_task_id is None


async def test_a_burst_does_not_pass_the_limit_together(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    submit = runtime.config.submit.model_copy(update={"in_flight_max": 5})
    narrow = replace(runtime, config=runtime.config.model_copy(update={"submit": submit}))

    results = await asyncio.gather(
        *(submit_task(narrow, principal, a_body(), "req") for _ in range(60)),
        return_exceptions=True,
    )

    refused = [each for each in results if isinstance(each, Overloaded)]
    assert len(refused) == 55
    assert len(upstream.submits) == 5


async def test_a_late_refusal_of_a_submission_given_up_as_lost_is_a_failed_task(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream, clock: FakeClock
) -> None:
    upstream.gate = asyncio.Event()
    upstream.submit_errors = [UpstreamRejected("No.", code="InvalidParameter", status=400)]
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(runtime, principal, a_body(), "req"))
        await upstream.asked.wait()
        clock.advance(1000)
        await sweep_lost_submissions(runtime)
        request.cancel()
    upstream.gate.set()
    await settle(runtime)

    assert await states(runtime) == [TaskState.FAILED]


class TestLockedStore:
    """Another process holds the database's write lock for longer than a write waits."""

    @pytest.fixture
    def config(self, config: Config) -> Config:
        storage = config.storage.model_copy(update={"lock_timeout_s": 0.05})
        return config.model_copy(update={"storage": storage})

    @pytest.mark.parametrize("is_refused", [False, True])
    async def test_an_outcome_is_kept_until_the_store_takes_it(
        self,
        runtime: Runtime,
        principal: Principal,
        upstream: FakeUpstream,
        *,
        is_refused: bool,
    ) -> None:
        runtime = replace(runtime, clock=SystemClock())
        upstream.gate = asyncio.Event()
        if is_refused:
            upstream.submit_errors = [UpstreamRejected("No.", code="InvalidParameter", status=400)]
        path = runtime.config.data_dir / DATABASE_FILE
        with closing(sqlite3.connect(path, isolation_level=None)) as rival:
            async with asyncio.TaskGroup() as group:
                request = group.create_task(_outcome(runtime, principal))
                await upstream.asked.wait()
                rival.execute("BEGIN IMMEDIATE")
                upstream.gate.set()
            rival.execute("ROLLBACK")
        await settle(runtime)

        if is_refused:
            assert isinstance(request.result(), UpstreamRejected)
            assert await states(runtime) == [TaskState.REJECTED]
        else:
            assert isinstance(request.result(), Submitted)
            stored = await runtime.db.read(tasks.find, upstream.submits[0].attempt_id)
            assert stored is not None
            assert (stored.task.state, stored.task.upstream_task_id) == (TaskState.QUEUED, "up-1")


async def _outcome(runtime: Runtime, principal: Principal) -> Submitted | UpstreamRejected:
    try:
        return await submit_task(runtime, principal, a_body(), "req")
    except UpstreamRejected as error:
        return error


@pytest.mark.parametrize("shown", [Observation("post_processing", {}), None])
async def test_a_task_that_the_look_does_not_confirm_as_queued_is_not_deleted_upstream(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    shown: Observation | None,
) -> None:
    task = (await submit_task(runtime, principal, a_body(), "req")).task
    del upstream.shown["up-1"]
    if shown is not None:
        upstream.shown["up-1"] = shown

    with pytest.raises(SubmissionUnconfirmed):
        await cancel_task(runtime, principal, task.id)

    assert not upstream.cancels
    assert await states(runtime) == [TaskState.QUEUED]


async def test_a_request_is_let_go_before_its_outcome_is_recorded(
    runtime: Runtime, principal: Principal, upstream: FakeUpstream
) -> None:
    asleep, may_go_on = asyncio.Event(), asyncio.Event()

    class SleepyClock(FakeClock):
        async def sleep(self, delay_s: float) -> None:
            asleep.set()
            await may_go_on.wait()
            self.advance(delay_s)

    def requests_kept() -> int:
        gc.collect()
        return sum(
            isinstance(each, NormalizedRequest) and "kept-canary" in each.content[0].value
            for each in gc.get_objects()
        )

    slow = replace(runtime, clock=SleepyClock())
    upstream.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        request = group.create_task(submit_task(slow, principal, a_body("kept-canary"), "req"))
        await upstream.asked.wait()
        kept_while_sent = requests_kept()
        upstream.submits.clear()
        await runtime.db.close()
        upstream.gate.set()
        await asleep.wait()
    kept_while_recorded = requests_kept()
    may_go_on.set()
    await settle(slow)

    assert request.result().task.state is TaskState.RESERVED
    assert (kept_while_sent, kept_while_recorded) == (1, 0)
