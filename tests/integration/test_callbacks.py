"""Callbacks of upstreams, by a real socket into a real store; what is looked at is the test's."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.config import Config
from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.callbacks import BODY_BYTES_MAX, hash_token
from gateway.domain.keys import Principal
from gateway.domain.tasks import Event, Observation, Task, TaskState, advance
from gateway.errors import UpstreamAmbiguous, UpstreamTimeout
from gateway.http.callbacks import BURST_S, read_body
from gateway.ports import Runtime
from gateway.services.calling_back import verify_claims
from gateway.services.moves import record_move
from gateway.services.observing import observe_due
from gateway.services.submission import submit_task
from gateway.storage import attempts, orphans, tasks
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.listening import exchange_bytes, listening
from tests.support.waiting import eventually

PUBLIC_URL = "https://video.example"
PER_S_MAX = 2.0
BODY = {
    "model": "doubao-seedance-1-0-pro-250528",
    "content": [{"type": "text", "text": "a fox --resolution 480p --duration 5"}],
}
LOST = "No answer."


@pytest.fixture
def config(config: Config) -> Config:
    server = config.server.model_copy(update={"public_url": PUBLIC_URL})
    webhooks = config.webhooks.model_copy(update={"incoming_per_s_max": PER_S_MAX})
    return config.model_copy(update={"server": server, "webhooks": webhooks})


@dataclass
class Site:
    """A gateway that listens, and what its upstream may do to it."""

    runtime: Runtime
    upstream: FakeUpstream
    clock: FakeClock
    client: httpx.AsyncClient
    port: int

    def path(self, number: int = 0) -> str:
        """Return the callback path that the upstream was given with a submit."""
        url = self.upstream.submits[number].callback_url
        assert url is not None
        assert url.startswith(PUBLIC_URL + "/callbacks/")
        return url.removeprefix(PUBLIC_URL)

    async def call(self, path: str, body: object) -> None:
        """Call back; the answer is the one that everybody gets."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        check_answer(await self.client.post(path, content=content))
        await self.runtime.chores.drain()

    async def stored(self, task: Task) -> Task:
        found = await self.runtime.db.read(tasks.find, task.id)
        assert found is not None
        return found.task

    async def look(self, after_s: float = 0.0) -> int:
        self.clock.advance(after_s)
        return await observe_due(self.runtime, self.upstream, "default")

    def results(self) -> dict[str, int]:
        return {labels[0]: n for labels, n in self.runtime.metrics.callbacks.values.items()}


def check_answer(response: httpx.Response) -> None:
    """A stranger learns nothing: this is what every call gets."""
    assert response.status_code == 204
    assert response.content == b""
    assert "content-length" not in response.headers
    assert "content-type" not in response.headers


@pytest.fixture
async def site(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> AsyncIterator[Site]:
    upstream.now_ms = clock.now_ms
    async with (
        listening(create_app(runtime)) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield Site(runtime, upstream, clock, client, port)


Submit = Callable[..., Coroutine[Any, Any, Task]]


@pytest.fixture
def submit(site: Site, principal: Principal) -> Submit:
    async def act(caller: Principal = principal, *, is_lost: bool = False, **more: object) -> Task:
        if is_lost:
            site.upstream.submit_errors.append(UpstreamAmbiguous(LOST))
            site.upstream.makes_lost_tasks = True
        submitted = await submit_task(site.runtime, caller, {**BODY, **more}, "req")
        await site.runtime.background.drain()
        return await site.stored(submitted.task)

    return act


async def test_each_attempt_has_an_address_of_its_own_and_only_its_hash_is_kept(
    site: Site, submit: Submit
) -> None:
    first, second = await submit(), await submit(seed=7)

    tokens = [site.path(number).rpartition("/")[2] for number in (0, 1)]
    kept = [await site.runtime.db.read(attempts.find, task.id) for task in (first, second)]
    assert len(set(tokens)) == 2
    assert [each.markers.callback_token for each in kept if each is not None] == [
        hash_token(token) for token in tokens
    ]


async def test_news_bring_the_look_forward_and_nothing_else_moves_the_task(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
    called = await site.stored(task)

    assert called.state is TaskState.QUEUED
    assert called.version == task.version
    site.upstream.shown["up-1"] = Observation("running", {})
    assert await site.look() == 1
    assert (await site.stored(task)).state is TaskState.RUNNING
    assert site.upstream.gets == ["up-1"]


async def test_a_task_that_calls_back_costs_two_reads(site: Site, submit: Submit) -> None:
    task = await submit()
    await site.call(site.path(), {"id": "up-1", "status": "queued"})
    for _ in range(30):
        await site.look(1)
    site.upstream.shown["up-1"] = Observation("running", {})
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    for _ in range(60):
        await site.look(1)
    site.upstream.shown["up-1"] = Observation("succeeded", {"usage": {"completion_tokens": 9}})
    await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
    await site.look(1)

    assert (await site.stored(task)).state is TaskState.SUCCEEDED
    assert len(site.upstream.gets) == 2
    assert site.results() == {"no_news": 1, "news": 2}


async def test_callbacks_that_stop_are_made_up_for_by_the_fallback(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    await site.call(site.path(), {"id": "up-1", "status": "queued"})
    site.upstream.shown["up-1"] = Observation("succeeded", {"usage": {"completion_tokens": 9}})
    settings = site.runtime.config.observer
    family = site.runtime.catalog.find(task.model)
    assert family is not None
    late_s = settings.callback_runs * family.typical_run_s

    assert await site.look(late_s * 0.8) == 0
    assert await site.look(late_s * 0.35) == 1
    assert (await site.stored(task)).state is TaskState.SUCCEEDED


async def test_without_any_callback_tasks_are_polled_as_ever(site: Site, submit: Submit) -> None:
    await submit()
    for _ in range(180):
        await site.look(1)

    assert len(site.upstream.gets) >= 8


async def test_news_that_the_upstream_does_not_show_yet_are_looked_for_again_soon(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    await site.call(site.path(), {"id": "up-1", "status": "queued"})
    await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
    assert await site.look() == 1

    site.upstream.shown["up-1"] = Observation("succeeded", {"usage": {"completion_tokens": 9}})
    for _ in range(30):
        await site.look(1)
    assert (await site.stored(task)).state is TaskState.SUCCEEDED
    assert len(site.upstream.gets) == 2


async def test_a_callback_during_a_look_is_not_lost_with_its_result(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    claimed = await site.runtime.db.write(
        tasks.claim_due,
        "fake",
        "default",
        now_ms=site.clock.now + 3_600_000,
        far_ms=site.clock.now + 7_200_000,
        lease_until_ms=site.clock.now + 60_000,
        limit=1,
    )
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    await site.runtime.db.write(
        tasks.reschedule,
        [
            tasks.Reschedule(
                task.id,
                task.version,
                site.clock.now + 30_000,
                1,
                0,
                None,
                claimed[0].next_poll_at_ms,
            )
        ],
    )

    assert await site.look() == 1


async def test_the_first_callback_counts_also_for_a_task_that_is_due_anyway(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    site.clock.advance(60)
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    site.upstream.shown["up-1"] = Observation("running", {})
    assert await site.look() == 1

    assert (await site.stored(task)).is_called_back
    assert await site.look(60) == 0


async def test_replays_cost_one_look_in_three_seconds_and_none_after_the_end(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    news = {"id": "up-1", "status": "running"}
    for _ in range(5):
        await site.call(site.path(), news)
        await site.look(0.5)
    assert len(site.upstream.gets) == 1

    site.upstream.shown["up-1"] = Observation("failed", {})
    await site.look(60)
    ended = await site.stored(task)
    reads = len(site.upstream.gets)
    for _ in range(5):
        await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
        await site.look(30)
    assert await site.stored(task) == ended
    assert len(site.upstream.gets) == reads
    assert site.results()["late"] == 5


async def test_a_task_whose_answer_is_on_its_way_is_left_alone(
    site: Site, principal: Principal
) -> None:
    site.upstream.gate = asyncio.Event()
    waiting = asyncio.ensure_future(submit_task(site.runtime, principal, BODY, "req"))
    await site.upstream.asked.wait()
    await site.call(site.path(), {"id": "somebody-elses", "status": "running"})
    assert await verify_claims(site.runtime) == 0
    site.upstream.gate.set()
    task = (await waiting).task
    await site.runtime.background.drain()

    stored = await site.stored(task)
    attempt = await site.runtime.db.read(attempts.find, task.id)
    assert (stored.state, stored.upstream_task_id) == (TaskState.QUEUED, "up-1")
    assert stored.is_called_back
    assert attempt is not None
    assert attempt.claimed_task_id is None
    assert site.upstream.gets == []
    assert site.results() == {"early": 1}


async def test_a_lost_submission_is_found_by_its_callback_and_one_read(
    site: Site, submit: Submit
) -> None:
    task = await submit(is_lost=True)
    assert task.state is TaskState.UNKNOWN
    site.upstream.shown["up-1"] = Observation("running", {})
    await site.call(site.path(), {"id": "up-1", "status": "running"})

    assert (await site.stored(task)).state is TaskState.UNKNOWN
    assert await verify_claims(site.runtime) == 1
    found = await site.stored(task)
    assert (found.state, found.upstream_task_id) == (TaskState.RUNNING, "up-1")
    assert site.upstream.gets == ["up-1"]
    assert await verify_claims(site.runtime) == 0


async def test_a_lost_submission_that_has_ended_meanwhile_is_settled(
    site: Site, submit: Submit
) -> None:
    task = await submit(is_lost=True)
    done = Observation("succeeded", {"usage": {"completion_tokens": 49005}})
    site.upstream.shown["up-1"] = done
    await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
    await verify_claims(site.runtime)

    found = await site.stored(task)
    assert found.state is TaskState.SUCCEEDED
    assert found.bill is not None
    assert found.bill.cost_micros > 0


async def test_a_callback_without_an_id_only_says_that_the_task_is_not_absent(
    site: Site, submit: Submit
) -> None:
    task = await submit(is_lost=True)
    await site.call(site.path(), b"\xff\x00 no JSON")

    assert (await site.stored(task)).is_called_back
    assert await verify_claims(site.runtime) == 0
    assert site.upstream.gets == []


async def test_a_claim_to_another_projects_task_is_refuted_without_a_read(
    site: Site, submit: Submit, stranger: Principal
) -> None:
    theirs = await submit(stranger)
    ours = await submit(is_lost=True, seed=3)
    await site.call(site.path(1), {"id": theirs.upstream_task_id, "status": "succeeded"})
    await verify_claims(site.runtime)

    assert site.upstream.gets == []
    assert (await site.stored(ours)).state is TaskState.UNKNOWN
    assert await site.stored(theirs) == theirs
    assert site.results()["refuted"] == 1


async def test_tokens_swapped_between_two_lost_submissions_adopt_neither(
    site: Site, submit: Submit, stranger: Principal
) -> None:
    theirs = await submit(stranger, is_lost=True)
    ours = await submit(is_lost=True)
    await site.call(site.path(0), {"id": "up-2", "status": "queued"})
    await site.call(site.path(1), {"id": "up-1", "status": "queued"})
    await verify_claims(site.runtime)
    assert [(await site.stored(each)).state for each in (theirs, ours)] == ["unknown"] * 2

    await site.call(site.path(0), {"id": "up-1", "status": "queued"})
    await site.call(site.path(1), {"id": "up-2", "status": "queued"})
    await verify_claims(site.runtime)
    found = [await site.stored(each) for each in (theirs, ours)]
    assert [each.upstream_task_id for each in found] == ["up-1", "up-2"]


async def test_tokens_swapped_between_followed_tasks_show_nothing_of_one_to_the_other(
    site: Site, submit: Submit, stranger: Principal
) -> None:
    theirs, ours = await submit(stranger), await submit(seed=3)
    site.upstream.shown["up-1"] = Observation("succeeded", {"content": {"video_url": "theirs"}})
    await site.call(site.path(1), {"id": "up-1", "status": "succeeded"})
    await site.look()

    assert site.upstream.gets == ["up-2"]
    assert (await site.stored(ours)).state is TaskState.QUEUED
    assert (await site.stored(theirs)).state is TaskState.QUEUED


@pytest.mark.parametrize(
    "change",
    [
        {"model": "doubao-seedance-2-0-260128"},
        {"resolution": "1080p"},
        {"duration_s": 10},
        {"created_at_ms": 1_700_000_000_000},
        {"observation": Observation("", {})},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_claimed_task_that_can_not_have_come_of_the_attempt_is_refuted(
    site: Site, submit: Submit, change: dict[str, Any]
) -> None:
    task = await submit(is_lost=True)
    site.upstream.listed = [replace(site.upstream.listed[0], **change)]
    if "observation" in change:
        site.upstream.shown["up-1"] = change["observation"]
    await site.call(site.path(), {"id": "up-1", "status": "queued"})
    await verify_claims(site.runtime)

    assert (await site.stored(task)).state is TaskState.UNKNOWN
    assert len(site.upstream.gets) == 1
    assert await verify_claims(site.runtime) == 0


async def test_a_claim_waits_for_an_upstream_that_is_away(site: Site, submit: Submit) -> None:
    task = await submit(is_lost=True)
    await site.call(site.path(), {"id": "up-1", "status": "queued"})
    site.upstream.read_error = UpstreamTimeout("away")
    with pytest.raises(UpstreamTimeout):
        await verify_claims(site.runtime)
    site.upstream.read_error = None
    await verify_claims(site.runtime)

    assert (await site.stored(task)).state is TaskState.QUEUED


async def test_a_submission_that_was_given_up_stays_so_and_its_task_is_an_orphan(
    site: Site, submit: Submit
) -> None:
    task = await submit(is_lost=True)
    await _give_up(site, task)
    given_up = await site.stored(task)
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    await verify_claims(site.runtime)

    found = await site.runtime.db.read(orphans.list_of_task, task.id)
    assert [each.upstream_task_id for each in found] == ["up-1"]
    assert replace(await site.stored(task), called_back_at_ms=None) == given_up
    assert await verify_claims(site.runtime) == 0


async def _give_up(site: Site, task: Task) -> None:
    gone = advance(task, Event.ABSENT, site.clock.now)
    await record_move(
        site.runtime, task, gone, Event.ABSENT, Evidence(EvidenceKind.ABSENT, "three lists")
    )


@pytest.mark.parametrize(
    "path",
    ["/callbacks/" + "a" * 32, "/callbacks/" + "a" * 31, "/callbacks/x", "/callbacks/" + "A" * 900],
    ids=["unknown", "short", "nonsense", "long"],
)
async def test_an_address_that_was_never_given_gets_the_same_answer(site: Site, path: str) -> None:
    await site.call(path, {"id": "up-1", "status": "succeeded"})

    assert site.results() == {"unknown": 1}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\x00" * 1000, b'{"id":"../../x"}', b"[" * 10_000],
    ids=["empty", "cut", "a list", "zeros", "a path", "deep"],
)
async def test_any_body_gets_the_same_answer(site: Site, submit: Submit, body: bytes) -> None:
    task = await submit(is_lost=True)
    await site.call(site.path(), body)
    await verify_claims(site.runtime)

    assert (await site.stored(task)).state is TaskState.UNKNOWN
    assert site.upstream.gets == []


@pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {"Content-Type": "image/png"}])
async def test_any_type_gets_the_same_answer(
    site: Site, submit: Submit, headers: dict[str, str]
) -> None:
    await submit()
    check_answer(await site.client.post(site.path(), content=b"{}", headers=headers))


async def test_an_oversized_body_is_not_read_to_its_end(site: Site, submit: Submit) -> None:
    await submit()
    head = f"POST {site.path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
    answer, is_closed = await exchange_bytes(site.port, head.encode() + b" " * (BODY_BYTES_MAX + 1))

    assert answer.startswith(b"HTTP/1.1 204 ")
    assert b"connection: close" in answer.lower()
    assert is_closed
    assert site.results() == {"unread": 1}


async def test_a_body_that_is_cut_off_says_nothing(site: Site, submit: Submit) -> None:
    task = await submit()
    head = f"POST {site.path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(head.encode() + b'{"id":"up-1","status":"running"}')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await eventually(site.results)

    assert site.results() == {"unread": 1}
    assert not (await site.stored(task)).is_called_back


async def test_a_body_that_never_arrives_is_not_waited_for() -> None:
    chunks = iter([b'{"id":', b' "up-1"'])

    async def receive() -> dict[str, object]:
        chunk = next(chunks, None)
        if chunk is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunk, "more_body": True}

    assert await read_body(receive, body_s_max=0.05) is None


async def test_a_flood_is_dropped_beyond_the_rate_and_only_delays(
    site: Site, submit: Submit
) -> None:
    task = await submit()
    burst = int(PER_S_MAX * BURST_S)
    for _ in range(burst + 10):
        await site.call("/callbacks/" + "b" * 32, {})
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    assert site.results() == {"unknown": burst, "dropped": 11}
    assert not (await site.stored(task)).is_called_back

    site.upstream.shown["up-1"] = Observation("running", {})
    await site.look(20)  # as the schedule has it without callbacks
    assert (await site.stored(task)).state is TaskState.RUNNING
    await site.call(site.path(), {"id": "up-1", "status": "succeeded"})
    assert site.results()["news"] == 1


async def test_a_store_in_trouble_is_not_told_of(site: Site, submit: Submit) -> None:
    await submit()
    await site.runtime.db.close()
    await site.call(site.path(), {"id": "up-1", "status": "running"})

    assert site.results() == {"failed": 1}


async def test_no_line_of_the_log_holds_a_token(
    site: Site, submit: Submit, log_stream: io.StringIO
) -> None:
    await submit()
    await site.call(site.path(), {"id": "up-1", "status": "running"})
    await site.client.get(site.path())
    await asyncio.sleep(0.02)
    token = site.path().rpartition("/")[2]
    text = log_stream.getvalue()

    assert token not in text
    assert hash_token(token) not in text
    assert "/callbacks/{token}" in text
    assert "callback.received" in text


async def test_other_methods_and_deeper_paths_are_refused_alike_for_any_token(
    site: Site, submit: Submit
) -> None:
    await submit()
    for path in (site.path(), "/callbacks/" + "a" * 32):
        assert (await site.client.get(path)).status_code == 405
        assert (await site.client.post(path + "/x", content=b"{}")).status_code == 404
    assert (await site.client.post("/callbacks", content=b"{}")).status_code == 401


async def test_the_address_is_no_part_of_what_clients_are_told(site: Site) -> None:
    document = (await site.client.get("/openapi.json")).json()

    assert not [path for path in document["paths"] if "callbacks" in path]
