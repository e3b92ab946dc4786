"""The bench on which flows are tried: a server of forks, a sandbox, and data folders to copy."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.chaos.flows import Order, dump_order
from tests.chaos.upstream import Sandbox, run_upstream
from tests.support.gateway import REPOSITORY, make_environment
from tests.support.strace import Injection, list_points, trace_stopped


@dataclass(frozen=True, slots=True)
class Ran:
    """How a flow ended: its exit code, below 0 for a signal, and what it told if it came so far."""

    exit_code: int
    answer: dict[str, Any]
    log: Path


@dataclass(slots=True)
class Bench:
    """Made by `open_bench`. `folder` holds everything that trials leave."""

    folder: Path
    sandbox: Sandbox
    forks: subprocess.Popen[str]
    trial_count: int = 0

    def new_folder(self, template: Path | None = None) -> Path:
        """Return a data folder of a new trial: none yet, or a copy."""
        self.trial_count += 1
        folder = self.folder / f"{self.trial_count:05d}"
        if template is not None:
            shutil.copytree(template, folder)
        return folder

    def forget(self, folder: Path) -> None:
        """Remove everything that a trial left."""
        shutil.rmtree(folder)
        for path in folder.parent.glob(f"{folder.name}.*"):
            path.unlink()

    def order(self, flow: str, data_dir: Path, credential: str, **more: Any) -> Order:
        return Order(flow, str(data_dir), self.sandbox.url, credential, **more)

    def run(self, order: Order) -> Ran:
        """Carry out an order to its end, undisturbed. AssertionError if it fails."""
        ran = self._run(order, None)
        assert ran.exit_code == 0, f"{order.flow}: {ran.log.read_text()[-3000:]}"
        return ran

    def run_faulty(self, order: Order, *injections: Injection) -> Ran:
        """Carry out an order while its calls go wrong as told."""
        return self._run(order, injections)

    def record_points(self, order: Order, *faults: Injection) -> list[Injection]:
        """Return every kill worth trying of an order, which is carried out for that."""
        ran = self._run(order, faults)
        assert ran.exit_code == 0, f"{order.flow}: {ran.log.read_text()[-3000:]}"
        return list_points(self.record_of(order))

    def _run(self, order: Order, injections: Sequence[Injection] | None) -> Ran:
        log = Path(f"{order.data_dir}.log")
        out = log.with_suffix(".out")
        out.unlink(missing_ok=True)
        is_traced = injections is not None
        assert self.forks.stdin is not None
        print(
            dump_order(replace(order, is_traced=is_traced), log), file=self.forks.stdin, flush=True
        )
        pid = int(self._read_line())
        if injections is not None:
            with trace_stopped(pid, self.record_of(order), injections):
                exit_code = int(self._read_line())
        else:
            exit_code = int(self._read_line())
        return Ran(exit_code, json.loads(out.read_text()) if out.exists() else {}, log)

    def record_of(self, order: Order) -> Path:
        """Return where the calls of a traced order are written down."""
        return Path(f"{order.data_dir}.strace")

    def _read_line(self) -> str:
        assert self.forks.stdout is not None
        line = self.forks.stdout.readline()
        assert line, f"no fork is made: {(self.folder / 'forks.log').read_text()[-3000:]}"
        return line


@contextmanager
def open_bench(folder: Path) -> Iterator[Bench]:
    """Start sandbox and server of forks; end both when the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        run_upstream(folder / "sandbox") as sandbox,
        (folder / "forks.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.flows"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=REPOSITORY,
            env=make_environment({"PYDANTIC_DISABLE_PLUGINS": "__all__"}),
            text=True,
        ) as forks,
    ):
        try:
            bench = Bench(folder, sandbox, forks)
            assert bench._read_line() == "ready\n"
            yield bench
        finally:
            assert forks.stdin is not None
            forks.stdin.close()
