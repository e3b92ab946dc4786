"""The life of a task: six statuses, planned times, the clock, determinism."""

import time
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.sandbox.settings import SandboxLimits
from tests.sandbox.conftest import Opener
from tests.sandbox.support import PRO, SEEDANCE_2, Upstream

BASE_FIELDS = {
    "id",
    "model",
    "status",
    "created_at",
    "updated_at",
    "service_tier",
    "execution_expires_after",
}


async def test_goes_from_queued_over_running_to_succeeded(upstream: Upstream) -> None:
    task_id = await upstream.create(duration=5, resolution="480p", ratio="16:9")

    queued = await upstream.get(task_id)
    await upstream.advance(60)
    running = await upstream.get(task_id)
    await upstream.advance(200)
    done = await upstream.get(task_id)

    assert queued["status"] == "queued"
    assert set(queued) == BASE_FIELDS
    assert running["status"] == "running"
    assert set(running) == BASE_FIELDS
    assert running["updated_at"] >= queued["created_at"] + 2
    assert done["status"] == "succeeded"
    assert done["usage"] == {"completion_tokens": 49005, "total_tokens": 49005}
    assert (done["resolution"], done["ratio"], done["duration"]) == ("480p", "16:9", 5)
    assert done["framespersecond"] == 24
    assert 10_000 <= done["seed"] <= 999_999
    assert 90 <= done["updated_at"] - done["created_at"] <= 160
    assert done["created_at"] == queued["created_at"]


async def test_has_the_vendors_shape_of_ids(upstream: Upstream) -> None:
    task_id = await upstream.create()
    created_at = (await upstream.get(task_id))["created_at"]

    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(created_at + 8 * 3600))
    prefix, shown_stamp, suffix = task_id.split("-")
    assert (prefix, shown_stamp) == ("cgt", stamp)
    assert len(suffix) == 5
    assert suffix.isalnum()
    assert suffix == suffix.lower()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("sandbox:fail", "failed"),
        ("sandbox:moderation", "failed"),
        ("sandbox:expire", "expired"),
        ("a boat", "succeeded"),
    ],
)
async def test_ends_as_the_prompt_says(upstream: Upstream, words: str, status: str) -> None:
    shown = await upstream.finish(words)

    assert shown["status"] == status
    assert ("content" in shown) is (status == "succeeded")
    assert ("usage" in shown) is (status == "succeeded")
    assert ("error" in shown) is (status == "failed")


async def test_says_why_it_failed(upstream: Upstream) -> None:
    shown = await upstream.finish("sandbox:moderation")

    assert shown["error"]["code"] == "OutputVideoSensitiveContentDetected"
    assert "Request id: 02" in shown["error"]["message"]


async def test_expires_when_the_queue_lasts_longer_than_it_may_wait(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:queued=9000", execution_expires_after=3600)

    await upstream.advance(3500)
    assert await upstream.status(task_id) == "queued"
    await upstream.advance(200)
    shown = await upstream.get(task_id)

    assert shown["status"] == "expired"
    assert (await upstream.list("?filter.status=expired"))["items"] == [shown]
    assert abs(shown["updated_at"] - shown["created_at"] - 3600) <= 1


async def test_expires_while_it_runs(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:run=9000", execution_expires_after=3600)

    await upstream.advance(3599 - 60)
    assert await upstream.status(task_id) == "running"
    await upstream.advance(120)

    assert await upstream.status(task_id) == "expired"


async def test_more_tasks_than_slots_wait_as_queued(open_upstream: Opener) -> None:
    limits = SandboxLimits(concurrency=2, get_per_s=None)
    async with open_upstream(limits=limits) as upstream:
        task_ids = [await upstream.create("sandbox:run=100") for _ in range(5)]

        await upstream.advance(50)
        first = [await upstream.status(task_id) for task_id in task_ids]
        await upstream.advance(100)
        second = [await upstream.status(task_id) for task_id in task_ids]
        await upstream.advance(200)
        last = [await upstream.status(task_id) for task_id in task_ids]

    assert first == ["running"] * 2 + ["queued"] * 3
    assert second == ["succeeded"] * 2 + ["running"] * 2 + ["queued"]
    assert last == ["succeeded"] * 5


async def test_a_cancelled_task_lets_the_next_one_start_sooner(open_upstream: Opener) -> None:
    limits = SandboxLimits(concurrency=1, get_per_s=None)
    async with open_upstream(limits=limits) as upstream:
        await upstream.create("sandbox:run=100")
        second = await upstream.create("sandbox:run=100")
        third = await upstream.create("sandbox:run=100")

        assert (await upstream.delete(second)).status_code == 200
        await upstream.advance(150)

        assert await upstream.status(third) == "running"


async def test_models_have_slots_of_their_own_and_4k_has_one(open_upstream: Opener) -> None:
    limits = SandboxLimits(concurrency=1, get_per_s=None)
    async with open_upstream(limits=limits) as upstream:
        task_ids = [
            await upstream.create("sandbox:run=100"),
            await upstream.create("sandbox:run=100", model=SEEDANCE_2),
            await upstream.create("sandbox:run=100", model=SEEDANCE_2, resolution="4k"),
            await upstream.create("sandbox:run=100", model=SEEDANCE_2, resolution="4k"),
        ]
        await upstream.advance(50)
        seen = [await upstream.status(task_id) for task_id in task_ids]

    assert seen == ["running", "running", "running", "queued"]


async def test_time_scale_speeds_up_tasks_but_not_dates(open_upstream: Opener) -> None:
    async with open_upstream(time_scale=500.0) as upstream:
        started_s = SystemClock().now_ms() / 1000
        task_id = await upstream.create(resolution="480p")
        shown = await upstream.until(task_id, "succeeded")

    assert abs(shown["created_at"] - started_s) <= 2
    assert 0 <= shown["updated_at"] - shown["created_at"] <= 2


async def test_a_change_of_scale_does_not_jump(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:queued=0 sandbox:run=1000")
    await upstream.advance(100)

    before = (await upstream.http.get("/_sandbox/health")).json()["now_ms"]
    answer = await upstream.http.put("/_sandbox/clock", json={"scale": 1000})
    still = await upstream.status(task_id)
    after = answer.json()["now_ms"]
    shown = await upstream.until(task_id, "succeeded")

    assert answer.json()["scale"] == 1000
    assert 0 <= after - before < 1000
    assert still == "running"
    # 100 s of its run were before the change, the rest took less than two seconds of date.
    assert 100 <= shown["updated_at"] - shown["created_at"] <= 104


async def record_run(open_upstream: Opener, data_dir: Path, seed: int) -> list[object]:
    """Return what a sandbox with this seed makes of a few open requests."""
    async with open_upstream(data_dir=data_dir, seed=seed) as upstream:
        for _ in range(3):
            await upstream.create(model=SEEDANCE_2, duration=-1)
        await upstream.advance(3000)
        items = (await upstream.list())["items"]
    return [
        (
            item["id"][-5:],
            item["seed"],
            item["duration"],
        )
        for item in items
    ]


async def test_the_same_seed_makes_the_same_tasks(open_upstream: Opener, tmp_path: Path) -> None:
    first = await record_run(open_upstream, tmp_path / "a", seed=7)
    again = await record_run(open_upstream, tmp_path / "b", seed=7)
    other = await record_run(open_upstream, tmp_path / "c", seed=8)

    assert first == again
    assert first != other


def _only(shown: dict[str, Any], *fields: str) -> list[object]:
    return [shown[field] for field in fields]


async def test_open_durations_and_adaptive_ratios_are_resolved(upstream: Upstream) -> None:
    shown = await upstream.finish(model=SEEDANCE_2, duration=-1)

    assert 4 <= shown["duration"] <= 15
    assert _only(shown, "resolution", "ratio") == ["720p", "16:9"]
    frames = 24 * shown["duration"] + 1
    assert shown["usage"]["completion_tokens"] == 1280 * 720 * frames // 1024


async def test_frames_win_over_duration(upstream: Upstream) -> None:
    shown = await upstream.finish(frames=57, duration=10, resolution="480p", ratio="1:1")

    assert shown["frames"] == 57
    assert "duration" not in shown
    assert shown["usage"]["completion_tokens"] == 640 * 640 * 57 // 1024


async def test_a_task_of_an_endpoint_shows_the_model_behind_it(open_upstream: Opener) -> None:
    async with open_upstream(endpoints={"ep-20261122-abcde": PRO}) as upstream:
        task_id = await upstream.create(model="ep-20261122-abcde")

        assert (await upstream.get(task_id))["model"] == PRO
        assert (await upstream.list("?filter.model=ep-20261122-abcde"))["total"] == 1
        error = await upstream.refuse({"model": "ep-unknown", "content": []})
        assert error["code"] == "InvalidEndpointOrModel.NotFound"
