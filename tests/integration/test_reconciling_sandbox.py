"""Lost answers of the sandbox, over real HTTP, in real time."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.clock import SystemClock
from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.domain.echoes import Marker
from gateway.domain.keys import Principal
from gateway.domain.prices import DEFAULT_BOOK
from gateway.domain.tasks import Task, TaskState
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.sandbox.server import run_sandbox
from gateway.sandbox.settings import SandboxSettings
from gateway.services import admin, probing
from gateway.services.reconciling import reconcile_due
from gateway.services.submission import submit_task
from gateway.storage import attempts
from tests.support.lost import a_body, find_task, orphans_of

LOST_AFTER_CREATE = {"operation": "create", "at": "after_create", "action": "reset"}
LOST_BEFORE_CREATE = {"operation": "create", "at": "before_create", "action": "reset"}


class Bench:
    """A runtime, its sandbox, and somebody who submits."""

    def __init__(self, runtime: Runtime, url: str, principal: Principal) -> None:
        self.runtime = runtime
        self.principal = principal
        self._url = url

    async def lose(self, rule: dict[str, str], text: str = "a fox at dusk", **fields: Any) -> Task:
        """Submit a task whose answer is lost as the rule says."""
        await self.set_faults({**rule, "times": 1})
        body = a_body(text, **fields)
        task = (await submit_task(self.runtime, self.principal, body, "req")).task
        assert task.state is TaskState.UNKNOWN
        return task

    async def reconcile(self, task: Task, duration_s: float = 4.0) -> Task:
        """Let the reconciler run until the task is found, or so long."""
        upstream = self.runtime.upstreams["sandbox"]
        end_s = self.runtime.clock.monotonic_s() + duration_s
        found = await find_task(self.runtime, task.id)
        while found.state is TaskState.UNKNOWN and self.runtime.clock.monotonic_s() < end_s:
            await reconcile_due(self.runtime, upstream, "default")
            await self.runtime.clock.sleep(0.1)
            found = await find_task(self.runtime, task.id)
        return found

    async def set_faults(self, *rules: Mapping[str, object]) -> None:
        await self._control("PUT", "faults", {"rules": rules})

    async def made(self) -> list[dict[str, Any]]:
        truth = await self._control("GET", "truth")
        tasks: list[dict[str, Any]] = truth["tasks"]
        return tasks

    async def _control(self, method: str, name: str, body: object = None) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.request(method, f"{self._url}/_sandbox/{name}", json=body)
            value: dict[str, Any] = answer.raise_for_status().json()
            return value


OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


@pytest.fixture
def open_bench(tmp_path: Path) -> OpenBench:
    @asynccontextmanager
    async def run(*profiles: str, **settings: Any) -> AsyncIterator[Bench]:
        sandboxed = SandboxSettings(data_dir=tmp_path / "sandbox", profiles=profiles, **settings)
        async with run_sandbox(sandboxed) as sandbox:
            upstream = UpstreamConfig(
                name="sandbox",
                base_url=f"{sandbox.url}/api/v3",
                credentials=(CredentialConfig(env="SANDBOX"),),
                price_book=DEFAULT_BOOK,
            )
            config = Config(data_dir=tmp_path / "data", upstreams=(upstream,))
            async with open_runtime(
                config, environ={"SANDBOX": "sk-any"}, clock=SystemClock()
            ) as runtime:
                await admin.ensure_default_project(runtime)
                key = await admin.create_key(runtime, "test", "default")
                yield Bench(runtime, sandbox.url, Principal(key.project.id, key.record.id))

    return run


async def test_a_task_whose_answer_was_lost_is_found(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        lost = await bench.lose(LOST_AFTER_CREATE)

        found = await bench.reconcile(lost)

        (made,) = await bench.made()
        assert found.upstream_task_id == made["id"]


async def test_of_two_alike_each_gets_its_own(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        first = await bench.lose(LOST_AFTER_CREATE)
        second = await bench.lose(LOST_AFTER_CREATE)

        found = [await bench.reconcile(each) for each in (first, second)]

        seeds = {made["id"]: made["seed"] for made in await bench.made()}
        for task in found:
            attempt = await bench.runtime.db.read(attempts.find, task.id)
            assert attempt is not None
            assert seeds[task.upstream_task_id] == attempt.markers.seed


async def test_one_that_was_never_made_waits(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        lost = await bench.lose(LOST_BEFORE_CREATE)

        found = await bench.reconcile(lost, 1.5)

        assert found.state is TaskState.UNKNOWN
        assert not await bench.made()


async def test_a_list_that_lags_shows_it_later(open_bench: OpenBench) -> None:
    async with open_bench("list_lag=2") as bench:
        lost = await bench.lose(LOST_AFTER_CREATE)

        assert (await bench.reconcile(lost, 0.5)).state is TaskState.UNKNOWN
        assert (await bench.reconcile(lost)).upstream_task_id is not None


async def test_a_seed_that_is_given_back_at_the_end_only_finds_it_then(
    open_bench: OpenBench,
) -> None:
    async with open_bench("partial_echo", time_scale=300) as bench:
        lost = await bench.lose(LOST_AFTER_CREATE)

        found = await bench.reconcile(lost)

        assert found.state is TaskState.SUCCEEDED
        assert found.bill is not None


@pytest.mark.parametrize("profile", ["no_echo", "no_list"])
async def test_without_echo_or_list_it_waits(open_bench: OpenBench, profile: str) -> None:
    async with open_bench(profile) as bench:
        lost = await bench.lose(LOST_AFTER_CREATE)

        found = await bench.reconcile(lost, 1.5)

        assert found.state is TaskState.UNKNOWN


async def test_a_flex_task_is_found_in_a_list_that_has_to_be_asked_for_its_tier(
    open_bench: OpenBench,
) -> None:
    async with open_bench("tier_filter") as bench:
        lost = await bench.lose(LOST_AFTER_CREATE, service_tier="flex")

        found = await bench.reconcile(lost)

        assert found.upstream_task_id is not None


async def test_a_task_that_was_made_twice_is_adopted_once(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        twice = {"operation": "create", "at": "before_create", "action": "duplicate"}
        cut = {"operation": "create", "at": "mid_answer", "action": "reset"}
        await bench.set_faults({**twice, "times": 1}, {**cut, "times": 1})
        body = a_body("a fox at dusk")
        task = (await submit_task(bench.runtime, bench.principal, body, "req")).task

        found = await bench.reconcile(task)

        made = {each["id"] for each in await bench.made()}
        (orphan,) = await orphans_of(bench.runtime)
        assert {found.upstream_task_id, orphan.upstream_task_id} == made
        assert orphan.task_id == task.id


async def test_a_probe_sees_which_markers_come_back(open_bench: OpenBench) -> None:
    async with open_bench("partial_echo", time_scale=100) as bench:
        plan = await probing.plan_probe(bench.runtime, "default")
        probed = await probing.run_probe(bench.runtime, "cli", plan, 10.0)

        assert probed.report is not None
        seed = probed.report.echoes[Marker.SEED]
        assert seed.listed is not None
        assert seed.listed.status == "succeeded"
        assert not seed.is_contradicted
        assert probed.task.state is TaskState.SUCCEEDED
