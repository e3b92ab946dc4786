"""The real program as a subprocess: started on free ports, always stopped, its output kept."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.captured import Captured

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PROGRAM: Final = (sys.executable, "-m", "gateway")
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 30.0
TASK_S_MAX: Final = 60.0
_INHERITED: Final = ("PATH", "HOME", "TMPDIR")

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway. `sandbox_url` and `key` are None without a sandbox."""

    url: str
    metrics_url: str
    sandbox_url: str | None
    key: str | None
    data_dir: Path
    process: subprocess.Popen[bytes]
    log_path: Path
    captured: Captured

    def open_client(self, key: str | None = None) -> httpx.Client:
        """Return a client of the public listener, with `key` or the gateway's own."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=TASK_S_MAX, trust_env=False)

    def run_cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same data folder, beside the server."""
        return run_program([*arguments, "--data-dir", str(self.data_dir)], captured=self.captured)

    def create_key(self, *arguments: str) -> str:
        """Return a new key of the default project."""
        made = self.run_cli(
            "keys", "create", "--project", "default", *arguments, "--format", "json"
        )
        assert made.returncode == 0, made.stderr
        key: str = json.loads(made.stdout)["key"]
        self.captured.add_key(key)
        return key

    def read_truth(self) -> JsonObject:
        """Return what really happened at the sandbox."""
        truth: JsonObject = self._control("GET", "truth").json()
        return truth

    def set_faults(self, *rules: JsonObject) -> None:
        """Replace the sandbox's faults."""
        self._control("PUT", "faults", {"rules": list(rules)})

    def read_metrics(self) -> str:
        return httpx.get(self.metrics_url, trust_env=False).raise_for_status().text

    def count(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.read_metrics())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stop(self) -> int:
        """Ask the program to stop, as an operator does, and return its exit code."""
        if self.process.poll() is None:
            self.captured.keep("metrics.txt", self.read_metrics())
        self.process.terminate()
        try:
            return self.process.wait(STOP_S_MAX)
        finally:
            self.captured.keep_store(self.data_dir)

    def _control(self, method: str, name: str, body: JsonObject | None = None) -> httpx.Response:
        assert self.sandbox_url is not None
        url = f"{self.sandbox_url}/_sandbox/{name}"
        with httpx.Client(trust_env=False) as client:
            return client.request(method, url, json=body).raise_for_status()


@contextmanager
def run_gateway(
    data_dir: Path,
    captured: Captured,
    arguments: Sequence[str] = ("--sandbox",),
    environ: Mapping[str, str] | None = None,
    *,
    port: int = 0,
) -> Iterator[Gateway]:
    """Run `serve` on free ports, or a public one that is given, until the block is left.

    Raises: AssertionError, with the end of its log, if it does not get ready.
    """
    log_path = captured.new_path("serve.stderr.log")
    command = [*PROGRAM, "serve", *arguments, "--port", str(port), "--format", "json"]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [*command, "--data-dir", str(data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env=make_environment(environ),
        ) as process,
    ):
        try:
            ready = _read_ready_line(process)
            assert ready, f"serve did not start:\n{log_path.read_text()[-2000:]}"
            gateway = Gateway(
                **json.loads(ready),
                data_dir=data_dir,
                process=process,
                log_path=log_path,
                captured=captured,
            )
            if gateway.key is not None:
                captured.add_key(gateway.key)
            yield gateway
            if process.returncode is None:
                exit_code = gateway.stop()
                assert exit_code == 0, f"serve ended with {exit_code}; see {log_path}"
        finally:
            if process.poll() is None:
                process.kill()


def run_program(
    arguments: Sequence[str],
    *,
    captured: Captured,
    environ: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    done = subprocess.run(
        [*PROGRAM, *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S_MAX,
        cwd=cwd,
        env=make_environment(environ),
    )
    captured.keep(f"{arguments[0]}.stderr.log", done.stderr)
    return done


def make_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which nothing of the developer's own configures the gateway."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY), **(more or {})}


def wait_for_end(client: httpx.Client, path: str) -> JsonObject:
    """Return the task at `path` once it has ended, by waiting reads."""
    deadline_s = time.monotonic() + TASK_S_MAX
    while time.monotonic() < deadline_s:
        answer = client.get(path, params={"wait": 30}).raise_for_status()
        task: JsonObject = answer.json()
        if task["status"] in ENDED:
            return task
    raise AssertionError(f"the task is still {task['status']} after {TASK_S_MAX:g} s")


def _read_ready_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    is_readable, _, _ = select.select([process.stdout], [], [], START_S_MAX)
    return process.stdout.readline() if is_readable else b""
