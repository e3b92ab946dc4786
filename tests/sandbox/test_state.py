"""What survives: restarts, kills, and the limits of what is kept."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import httpx
import pytest

from gateway.sandbox.settings import SandboxLimits, SandboxSettings
from gateway.sandbox.store import StateInUseError
from tests.sandbox.conftest import NO_LIMITS, Opener
from tests.sandbox.support import ARK, Upstream, body, raw_request, send_raw

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from gateway.sandbox.server import main_sandbox
from gateway.sandbox.settings import SandboxLimits, SandboxSettings
limits = SandboxLimits(None, None, None, None, None, None, None, None)
settings = SandboxSettings(data_dir=Path(sys.argv[1]), limits=limits)
main_sandbox(settings, lambda url: print(url, flush=True))
"""


async def start_program(data_dir: Path) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(data_dir),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_goes_on_where_it_was(open_upstream: Opener) -> None:
    async with open_upstream() as upstream:
        done = await upstream.finish(seed=5)
        running = await upstream.create("sandbox:run=1000")
        await upstream.advance(100)
        queued = await upstream.create()
        before = await upstream.truth()
    async with open_upstream() as upstream:
        after = await upstream.truth()
        assert after["tasks"] == before["tasks"]
        assert (after["creates"], after["reads"]) == (before["creates"], before["reads"])
        seen = await upstream.get(done["id"])
        assert {**seen, "content": None} == {**done, "content": None}
        # The port is another one, the link's signature is the same.
        assert seen["content"]["video_url"][-64:] == done["content"]["video_url"][-64:]
        assert await upstream.status(running) == "running"
        assert await upstream.status(queued) == "queued"
        await upstream.advance(2000)
        assert await upstream.status(running) == "succeeded"
        assert (await upstream.truth())["creates"] == 3
        again = await upstream.create()
        assert again not in {done["id"], running, queued}


async def test_keeps_its_slots_over_a_restart(open_upstream: Opener) -> None:
    limits = SandboxLimits(concurrency=1, get_per_s=None)
    async with open_upstream(limits=limits) as upstream:
        await upstream.create("sandbox:run=1000")
        second = await upstream.create("sandbox:run=1000")
    async with open_upstream(limits=limits) as upstream:
        third = await upstream.create("sandbox:run=1000")
        await upstream.advance(1500)
        seen = [await upstream.status(task_id) for task_id in (second, third)]

    assert seen == ["running", "queued"]


async def test_keeps_clock_and_scale_unless_told_otherwise(open_upstream: Opener) -> None:
    async with open_upstream() as upstream:
        await upstream.advance(86_400)
        await upstream.http.put("/_sandbox/clock", json={"scale": 50})
        before = (await upstream.http.get("/_sandbox/health")).json()
    async with open_upstream() as upstream:
        after = (await upstream.http.get("/_sandbox/health")).json()
    async with open_upstream(time_scale=7.0) as upstream:
        changed = (await upstream.http.get("/_sandbox/health")).json()

    assert 0 <= after["now_ms"] - before["now_ms"] < 60_000
    assert (after["scale"], changed["scale"]) == (50, 7)


async def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    process, url = await start_program(tmp_path)
    answered: list[str] = []

    async def create_until_killed(http: httpx.AsyncClient) -> None:
        while True:
            try:
                answer = await http.post(ARK, json=body())
            except httpx.TransportError:
                return
            answered.append(answer.json()["id"])

    headers = {"authorization": "Bearer k"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        clients = asyncio.gather(*(create_until_killed(http) for _ in range(16)))
        for _ in range(1000):
            if len(answered) >= 200:
                break
            await asyncio.sleep(0.01)
        process.kill()
        await clients
    await process.communicate()

    again, url = await start_program(tmp_path)
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        truth = (await http.get("/_sandbox/truth")).json()
    again.send_signal(signal.SIGTERM)
    _, complaint = await again.communicate()

    assert len(answered) >= 200
    assert set(answered) <= {task["id"] for task in truth["tasks"]}
    assert truth["creates"] == len(truth["tasks"])
    assert (again.returncode, complaint) == (0, b"")


async def test_stops_cleanly_while_it_is_busy(tmp_path: Path) -> None:
    process, url = await start_program(tmp_path)
    async with httpx.AsyncClient(
        base_url=url, headers={"authorization": "Bearer k"}, trust_env=False
    ) as http:
        slow = asyncio.ensure_future(http.post(ARK, json=body("sandbox:slow=30")))
        await http.get("/_sandbox/health")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            await slow
    _, complaint = await process.communicate()

    assert (process.returncode, complaint) == (0, b"")


async def test_two_sandboxes_do_not_share_a_folder(open_upstream: Opener) -> None:
    async with open_upstream() as first:
        with pytest.raises(StateInUseError):
            async with open_upstream():
                pass
        assert await first.create()


async def test_a_failure_of_the_caller_comes_out_as_it_is(open_upstream: Opener) -> None:
    with pytest.raises(LookupError):
        async with open_upstream():
            raise LookupError


async def test_a_port_in_use_is_said(open_upstream: Opener, tmp_path: Path) -> None:
    async with open_upstream() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            async with open_upstream(data_dir=tmp_path / "other", port=port):
                pass


async def test_many_creates_at_once_are_all_different(open_upstream: Opener) -> None:
    async with open_upstream(limits=NO_LIMITS) as upstream:
        task_ids = await asyncio.gather(*(upstream.create() for _ in range(100)))
        truth = await upstream.truth()

    assert len(set(task_ids)) == 100
    assert truth["creates"] == 100


async def test_keeps_a_bounded_number_of_tasks(open_upstream: Opener) -> None:
    async with open_upstream(limits=NO_LIMITS, tasks_kept_max=10) as upstream:
        request = raw_request("POST", ARK, body(), close=False)
        await send_raw(upstream.url, request * 999 + raw_request("POST", ARK, body()))
        truth = await upstream.truth()

    assert truth["creates"] == 1000
    assert len(truth["tasks"]) == 10


async def test_two_deletes_at_once_leave_one_state(upstream: Upstream) -> None:
    queued = await upstream.create("sandbox:run=1000")
    answers = await asyncio.gather(*(upstream.delete(queued) for _ in range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    done = await upstream.finish()
    answers = await asyncio.gather(*(upstream.delete(done["id"]) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 7


async def test_runs_under_uvloop(settings: SandboxSettings) -> None:
    script = f"""
import asyncio, uvloop
from pathlib import Path
from gateway.sandbox.server import run_sandbox
from gateway.sandbox.settings import SandboxSettings
from tests.sandbox.support import ARK, body, raw_request, send_raw
async def main():
    async with run_sandbox(SandboxSettings(data_dir=Path({str(settings.data_dir)!r}))) as sandbox:
        made = await send_raw(sandbox.url, raw_request("POST", ARK, body()))
        for at, action in (("mid_answer", "reset"), ("before_read", "drop")):
            rules = {{"rules": [{{"operation": "create", "at": at, "action": action}}]}}
            await send_raw(sandbox.url, raw_request("PUT", "/_sandbox/faults", rules))
            cut = await send_raw(sandbox.url, raw_request("POST", ARK, body()))
            print(len(cut.payload), cut.was_reset)
        print(made.status)
uvloop.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", script),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()

    assert printed.decode().split() == ["16", "True", "0", "False", "200"]
