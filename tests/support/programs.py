"""The sandbox as a program of its own, and the memory that a program holds."""

import json
import select
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.captured import Captured
from tests.support.gateway import PROGRAM, REPOSITORY, START_S_MAX, make_environment

TIME_SCALE: Final = 20
BESIDE_IT: Final[Mapping[str, str]] = {"GATEWAY_OBSERVER__TIME_SCALE": str(TIME_SCALE)}
"""What a gateway has to be told of a sandbox that it did not start."""


@contextmanager
def run_sandbox_program(data_dir: Path, captured: Captured, *arguments: str) -> Iterator[str]:
    """Run the simulated upstream on a free port until the block is left; give its URL."""
    command = [*PROGRAM, "sandbox", "--port", "0", "--time-scale", str(TIME_SCALE), *arguments]
    with (
        captured.new_path("sandbox.stderr.log").open("wb") as log,
        subprocess.Popen(
            [*command, "--format", "json", "--data-dir", str(data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env=make_environment(),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            is_readable, _, _ = select.select([process.stdout], [], [], START_S_MAX)
            assert is_readable, "the sandbox did not start"
            url: str = json.loads(process.stdout.readline())["url"]
            yield url
        finally:
            process.terminate()


def read_memory(pid: int, *, peak: bool = False) -> int:
    """Return the bytes that the process holds, or the most since `reset_peak_memory`."""
    name = "VmHWM" if peak else "VmRSS"
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def reset_peak_memory(pid: int) -> int:
    """Forget the peak; return the bytes that the process holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return read_memory(pid)
