"""The real program on one data folder, killed and started again and again."""

import json
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.runtime import DATABASE_FILE
from tests.support.gateway import (
    PROGRAM,
    REPOSITORY,
    START_S_MAX,
    STOP_S_MAX,
    make_environment,
)
from tests.support.oracle import Books, read_books

TIME_SCALE: Final = 100.0
"""Of the sandbox and of the observer: a task lives for a second or two."""
LEASE_S: Final = 3.0
CREDENTIAL_VARIABLE: Final = "CHAOS_CREDENTIAL"

_CREATE_KEY: Final = ("keys", "create", "--project", "default", "--format", "json")

JsonObject = dict[str, Any]


@dataclass(slots=True)
class Server:
    """`serve` with these settings. `url` is where it answers while it does, else empty.

    `folder` holds its configuration and all that its starts have logged.
    """

    folder: Path
    settings: JsonObject
    environ: Mapping[str, str]
    prefix: Sequence[str] = ()
    """What it is run by, such as a tracer."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    url: str = ""
    start_count: int = 0
    kill_count: int = 0

    @property
    def data_dir(self) -> Path:
        return Path(self.settings["data_dir"])

    @property
    def database(self) -> Path:
        return self.data_dir / DATABASE_FILE

    def read_books(self) -> Books:
        """Return what its database says."""
        return read_books(self.database)

    @property
    def log_path(self) -> Path:
        return self.folder / "serve.log"

    @property
    def config_path(self) -> Path:
        return self.folder / "gateway.yaml"

    def spawn(self) -> None:
        """Begin a start."""
        assert self.process is None
        self.write_settings()
        command = [*self.prefix, *PROGRAM, "serve", "--port", "0", "--format", "json"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=REPOSITORY,
                env=make_environment(self.environ),
            )
        self.start_count += 1

    def write_settings(self) -> None:
        self.config_path.write_text(json.dumps(self.settings))  # which is YAML, too

    def wait_until_ready(self, timeout_s: float = START_S_MAX) -> bool:
        """Wait for the start to be done. False if it is not within the time."""
        assert self.process is not None
        assert self.process.stdout is not None
        is_readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        if not is_readable:
            return False
        line = self.process.stdout.readline()
        assert line, f"serve did not start:\n{self.read_log()}"
        self.url = json.loads(line)["url"]
        return True

    def start(self) -> None:
        """Start, and return once requests are answered."""
        self.spawn()
        assert self.wait_until_ready(), f"serve did not start:\n{self.read_log()}"

    def kill(self) -> None:
        """End it at once, wherever it is."""
        assert self.process is not None
        self.process.kill()
        self._wait()
        self.kill_count += 1

    def stop(self) -> None:
        """End it as an operator does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        exit_code = self._wait()
        assert exit_code == 0, f"serve ended with {exit_code}:\n{self.read_log()}"

    def read_log(self) -> str:
        """Return the end of its log."""
        return self.log_path.read_text()[-3000:]

    def run_command(self, *arguments: str) -> str:
        """Run a command of the program beside the server, or without one; return what it prints."""
        done = subprocess.run(
            [*self.prefix, *PROGRAM, *arguments, "--config", str(self.config_path)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S_MAX,
            cwd=REPOSITORY,
            env=make_environment(self.environ),
        )
        assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def _wait(self) -> int:
        assert self.process is not None
        self.url = ""
        try:
            return self.process.wait(STOP_S_MAX)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process, self.url = None, ""


def make_settings(data_dir: Path, upstream_url: str, **sections: JsonObject) -> JsonObject:
    """Return the configuration of a gateway whose only upstream is that sandbox."""
    upstream = {
        "name": "sandbox",
        "base_url": f"{upstream_url}/api/v3",
        "credentials": [{"env": CREDENTIAL_VARIABLE}],
        "list_per_s_max": 20.0,
        **sections.pop("upstream", {}),
    }
    return {
        "data_dir": str(data_dir),
        "upstreams": [upstream],
        # What a killed server had claimed is looked at again when its lease is over.
        "observer": {"time_scale": TIME_SCALE, "lease_s": LEASE_S},
        "telemetry": {"log_level": "warning"},
        **sections,
    }


@contextmanager
def serving(
    settings: JsonObject,
    credential: str,
    *,
    folder: Path,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Server]:
    """Give a server that is not started yet; nothing of it is left afterwards."""
    environ = {CREDENTIAL_VARIABLE: credential, **(environ or {})}
    server = Server(folder, settings, environ, prefix)
    try:
        yield server
    finally:
        server.abandon()


def create_keys(server: Server, count: int) -> list[str]:
    """Make keys of the default project on the folder of a server, which may run."""
    server.write_settings()
    made = [server.run_command(*_CREATE_KEY) for _ in range(count)]
    return [json.loads(each)["key"] for each in made]
