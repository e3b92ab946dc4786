"""Starting: how long it takes, what is printed, what is kept, and what is refused."""

import asyncio
import re
import socket
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import uvicorn

from gateway.app import create_app
from gateway.cli.serve import SANDBOX_PORT
from gateway.config import Config, CredentialConfig, ObserverConfig, UpstreamConfig
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.services import admin
from gateway.worker.loops import build_loops
from gateway.worker.supervisor import run_loops
from tests.e2e.conftest import StartGateway
from tests.support import published
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway, run_program, wait_for_end

STARTS_COUNT = 5
CREDENTIAL = "credential-of-the-live-start-7Q4X"
LOOPBACK_URL = re.compile(r"http://127\.0\.0\.1:[1-9][0-9]*")
TEST_KEY = re.compile(r"sg_test_[0-9A-Za-z]{61}")


@pytest.mark.long
def test_the_time_from_start_to_first_answer_is_reported(
    tmp_path: Path,
    captured: Captured,
    capsys: pytest.CaptureFixture[str],
) -> None:
    durations_s = []
    for number in range(STARTS_COUNT):
        started_s = time.perf_counter()
        with run_gateway(tmp_path / str(number), captured) as gateway:
            answer = httpx.get(f"{gateway.url}/readyz", trust_env=False)
            durations_s.append(time.perf_counter() - started_s)
            assert answer.status_code == 200

    median_s = statistics.median(durations_s)
    with capsys.disabled():
        print(f"\nstart to first answer, median of {STARTS_COUNT}: {median_s:.2f} s")


def test_the_ready_line_tells_where_everything_is(gateway: Gateway) -> None:
    assert LOOPBACK_URL.fullmatch(gateway.url)
    assert gateway.sandbox_url is not None
    assert LOOPBACK_URL.fullmatch(gateway.sandbox_url)
    assert LOOPBACK_URL.fullmatch(gateway.metrics_url.removesuffix("/metrics"))
    assert gateway.key is not None
    assert TEST_KEY.fullmatch(gateway.key)
    assert (gateway.data_dir / "sandbox-key").read_text().strip() == gateway.key
    assert (gateway.data_dir / "sandbox-key").stat().st_mode & 0o777 == 0o600
    assert "gateway_build_info" in gateway.read_metrics()


def test_a_second_start_on_the_same_folder_keeps_key_and_tasks(
    start_gateway: StartGateway,
) -> None:
    first = start_gateway()
    with first.open_client() as client:
        task_id = client.post("/seedance/generations", json=published.make_body()).json()["id"]
        ended = wait_for_end(client, f"/seedance/generations/{task_id}")
    assert first.stop() == 0

    second = start_gateway()

    assert second.key == first.key
    with second.open_client() as client:
        again = client.get(f"/seedance/generations/{task_id}").json()
    assert again == ended


def test_a_task_goes_on_after_a_kill(start_gateway: StartGateway) -> None:
    first = start_gateway()
    with first.open_client() as client:
        body = published.make_body("sandbox:queued=0 sandbox:run=40")
        task_id = client.post("/seedance/generations", json=body).json()["id"]
    first.process.kill()
    first.process.wait()

    second = start_gateway()

    with second.open_client() as client:
        assert wait_for_end(client, f"/seedance/generations/{task_id}")["status"] == "succeeded"


def test_a_second_server_on_the_same_folder_is_refused(
    gateway: Gateway, captured: Captured
) -> None:
    refused = run_program(
        ["serve", "--sandbox", "--port", "0", "--data-dir", str(gateway.data_dir)],
        captured=captured,
    )

    assert refused.returncode == 2
    assert str(gateway.data_dir) in refused.stderr
    assert refused.stdout == ""


def test_a_port_in_use_is_named(tmp_path: Path, captured: Captured) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run_program(
            ["serve", "--port", str(port), "--data-dir", str(tmp_path)],
            captured=captured,
            environ={"ARK_API_KEY": CREDENTIAL, "ARK_BASE_URL": "http://127.0.0.1:9/api/v3"},
        )

    assert refused.returncode == 2
    assert f"port {port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_start_without_an_upstream_says_what_to_set(tmp_path: Path, captured: Captured) -> None:
    folder = tmp_path / "data"
    refused = run_program(["serve", "--data-dir", str(folder)], captured=captured)

    assert refused.returncode == 2
    for word in ("ARK_API_KEY", "ARK_BASE_URL", "--sandbox"):
        assert word in refused.stderr
    assert refused.stdout == ""
    assert not folder.exists()


def test_a_key_without_its_cloud_is_refused(tmp_path: Path, captured: Captured) -> None:
    refused = run_program(
        ["serve", "--data-dir", str(tmp_path)],
        captured=captured,
        environ={"ARK_API_KEY": CREDENTIAL},
    )

    assert refused.returncode == 2
    assert "ARK_BASE_URL" in refused.stderr
    assert CREDENTIAL not in refused.stderr


def test_the_live_start_needs_two_variables(
    gateway: Gateway, start_gateway: StartGateway, captured: Captured
) -> None:
    captured.secrets.add(CREDENTIAL)
    live = start_gateway(
        "--host",
        "127.0.0.1",
        environ={"ARK_API_KEY": CREDENTIAL, "ARK_BASE_URL": f"{gateway.sandbox_url}/api/v3"},
    )

    assert (live.sandbox_url, live.key) == (None, None)
    with live.open_client(live.create_key("--name", "first")) as client:
        submitted = client.post("/seedance/generations", json=published.make_body())
        assert submitted.status_code == 200, submitted.text
        task_id = submitted.json()["id"]
        assert client.get(f"/seedance/generations/{task_id}").json()["id"] == task_id


def test_a_live_start_ends_the_key_of_the_trial_and_a_trial_makes_another(
    gateway: Gateway, start_gateway: StartGateway, captured: Captured
) -> None:
    environ = {"ARK_API_KEY": CREDENTIAL, "ARK_BASE_URL": f"{gateway.sandbox_url}/api/v3"}
    captured.secrets.add(CREDENTIAL)
    trial = start_gateway("--sandbox")
    assert trial.key is not None
    assert trial.stop() == 0
    creates = gateway.read_truth()["creates"]

    live = start_gateway("--host", "127.0.0.1", environ=environ)

    with live.open_client(trial.key) as client:
        refused = client.post("/seedance/generations", json=published.make_body())
        assert refused.status_code == 401
    assert gateway.read_truth()["creates"] == creates
    assert not (live.data_dir / "sandbox-key").exists()
    revoked = [line for line in live.log_path.read_text().splitlines() if '"key.revoked"' in line]
    assert len(revoked) == 1
    assert '"actor": "bootstrap"' in revoked[0]
    assert trial.key[8:20] in revoked[0]
    assert live.stop() == 0

    again = start_gateway("--sandbox")

    assert again.key not in {None, trial.key}
    with again.open_client() as client:
        assert client.get("/seedance/generations").status_code == 200
    with again.open_client(trial.key) as client:
        assert client.get("/seedance/generations").status_code == 401


def test_a_kept_key_of_no_use_is_replaced(start_gateway: StartGateway, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "sandbox-key").write_bytes(b"\xff\xfe no key")

    started = start_gateway("--sandbox")

    with started.open_client() as client:
        assert client.get("/seedance/generations").status_code == 200


def test_a_broken_store_of_the_sandbox_is_named(tmp_path: Path, captured: Captured) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "sandbox.db").write_bytes(b"no database " * 1000)

    for command in ("serve --sandbox", "sandbox"):
        refused = run_program(
            [*command.split(), "--port", "0", "--data-dir", str(tmp_path)], captured=captured
        )
        assert refused.returncode == 2
        assert "The sandbox can't start: file is not a database" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_sandbox_takes_a_free_port_where_its_own_is_taken(
    tmp_path: Path, captured: Captured
) -> None:
    with ExitStack() as stack:
        with suppress(OSError):  # somebody else has it already
            stack.enter_context(socket.create_server(("127.0.0.1", SANDBOX_PORT)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        started = stack.enter_context(
            run_gateway(
                tmp_path, captured, ("--sandbox",), {"GATEWAY_SERVER__METRICS_PORT": "0"}, port=port
            )
        )

        assert started.sandbox_url != f"http://127.0.0.1:{SANDBOX_PORT}"
        assert started.read_truth()["creates"] == 0


def test_a_start_without_the_pepper_of_its_keys_is_refused(
    start_gateway: StartGateway, captured: Captured
) -> None:
    first = start_gateway("--sandbox")
    assert first.stop() == 0
    (first.data_dir / "pepper").unlink()

    refused = run_program(
        ["serve", "--sandbox", "--port", "0", "--data-dir", str(first.data_dir)], captured=captured
    )

    assert refused.returncode == 2
    assert f"{first.data_dir / 'pepper'} is gone" in refused.stderr
    assert not (first.data_dir / "pepper").exists()


@asynccontextmanager
async def uvicorn_serving(runtime: Runtime) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(create_app(runtime), lifespan="off", ws="none", log_config=None)
        server = uvicorn.Server(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True


async def test_the_same_application_works_under_uvicorn(gateway: Gateway, tmp_path: Path) -> None:
    upstream = UpstreamConfig(
        name="sandbox",
        base_url=f"{gateway.sandbox_url}/api/v3",
        credentials=(CredentialConfig(env="CREDENTIAL"),),
    )
    config = Config(
        data_dir=tmp_path, upstreams=(upstream,), observer=ObserverConfig(time_scale=20)
    )
    async with open_runtime(config, environ={"CREDENTIAL": CREDENTIAL}) as runtime:
        await admin.ensure_default_project(runtime)
        key = await admin.create_key(runtime, "test", "default", name="uvicorn")
        async with (
            asyncio.TaskGroup() as group,
            uvicorn_serving(runtime) as url,
            httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {key.key}"}, trust_env=False
            ) as client,
        ):
            loops = group.create_task(run_loops(runtime, build_loops(runtime)))
            submitted = await client.post("/seedance/generations", json=published.make_body())
            assert submitted.status_code == 200, submitted.text
            path = f"/seedance/generations/{submitted.json()['id']}"
            status = "queued"
            while status in {"queued", "running"}:
                answer = await client.get(path, params={"wait": 30}, timeout=60)
                status = answer.json()["status"]
            loops.cancel()

    assert status == "succeeded"
