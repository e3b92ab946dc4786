"""Faults at system calls: a stopped process is traced, and its n-th call of a kind goes wrong.

How `when=N` counts, as tried with strace 6.1 under `-f`: for each thread and each kind of call by
itself, from the moment of attachment. So `(pwrite64, 3)` hits whichever thread first comes to its
third `pwrite64`, and the numbers worth trying go up to what the busiest thread makes. A signal is
delivered on entry: the call that is hit is not made. Nothing is told of calls that other threads
have in progress at that moment, which makes neighbouring runs of one point differ a little.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.installing import install, may_install

KILL: Final = "signal=SIGKILL"
CALLS: Final = (
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "connect",
    "fcntl",
    "openat",
    "close",
    "unlink",
    "rename",
    "ftruncate",
)
"""What a flow does to the world, in calls: any of them may be the last."""

_ENTERED: Final = re.compile(r"^(\d+) +(\w+)\(")
_ATTACH_S_MAX: Final = 10.0
_LOOK_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Injection:
    """The `number`-th call of a kind goes wrong: `KILL`, `error=EIO`, `error=ENOSPC` ...

    With `is_lasting` so does every later one of that thread.
    """

    call: str
    number: int
    fault: str = KILL
    is_lasting: bool = False

    def __str__(self) -> str:
        when = f"{self.number}+" if self.is_lasting else str(self.number)
        return f"{self.call}:{self.fault}:when={when}"


def require_strace() -> None:
    """Skip the test where processes can't be traced; strace is installed first if that may be."""
    if shutil.which("strace") is None and may_install():
        install("strace")
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (as root, TEST_INSTALL=1 installs it)")
    tried = subprocess.run(
        ("strace", "-qq", "-o", "/dev/null", "true"), check=False, capture_output=True
    )
    if tried.returncode != 0:
        pytest.skip(f"processes can't be traced here: {tried.stderr.decode()[-200:]}")


def trace_stopped(
    pid: int, record: Path, injections: Sequence[Injection] = ()
) -> subprocess.Popen[bytes]:
    """Trace a process that has stopped itself, and let it go on; return the tracer.

    The tracer ends with the process; the calls are in `record` then.
    """
    _wait_for(lambda: _read_status(pid, "State")[:1] in {"T", "t"})
    calls = [f"?{call}" for call in CALLS]  # `?`: not every machine has all of them
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-qq", "-p", str(pid), "-o", str(record)),
            *("-e", "trace=" + ",".join(calls), "-e", "signal=none"),
            *(word for each in injections for word in ("-e", f"inject={each}")),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _wait_for(lambda: _is_traced(pid, tracer))
    except BaseException:
        tracer.kill()
        tracer.communicate()
        raise
    os.kill(pid, signal.SIGCONT)
    return tracer


def allow_tracing() -> None:
    """Let a process that is no ancestor trace this one, where the system asks for that."""
    import ctypes  # noqa: PLC0415 - for a process about to be traced only

    set_ptracer, anyone = 0x59616D61, ctypes.c_ulong(-1)
    ctypes.CDLL(None).prctl(set_ptracer, anyone, 0, 0, 0)


def list_points(record: Path) -> list[Injection]:
    """Return every kill worth trying of the flow that was recorded, kind by kind."""
    most = _count_most(record)
    return [Injection(call, number) for call in CALLS for number in range(1, most[call] + 1)]


def count_of(record: Path, call: str, *, before: str | None = None) -> int:
    """Return how many such calls the busiest thread made: in all, or before anyone's first other.

    `before` is the other kind.
    """
    return _count_most(record, before)[call]


def _count_most(record: Path, before: str | None = None) -> Counter[str]:
    """Return how many calls of each kind the thread made that made most of them."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in record.read_text().splitlines():
        if entered := _ENTERED.match(line):
            if entered[2] == before:
                break
            counts[entered[1], entered[2]] += 1
    most: Counter[str] = Counter()
    for (_thread, call), count in counts.items():
        most[call] = max(most[call], count)
    return most


def _is_traced(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    if tracer.poll() is not None:
        assert tracer.stderr is not None
        raise AssertionError(f"strace can't trace: {tracer.stderr.read().decode()[-500:]}")
    return _read_status(pid, "TracerPid") == str(tracer.pid)


def _read_status(pid: int, name: str) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return line.partition(":")[2].strip()


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _ATTACH_S_MAX
    while not is_so():
        assert time.monotonic() < deadline_s, "the process did not stop to be traced"
        time.sleep(_LOOK_S)
