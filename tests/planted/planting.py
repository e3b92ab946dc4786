"""Plants bugs in a copy of the repository, and runs there the tests that must notice them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Final

from tests.planted.bug import Bug
from tests.support.gateway import REPOSITORY, make_environment

COPIED: Final = ("config", "docs", "gateway", "scripts", "tests", "README.md", "pyproject.toml")
RUN_S_MAX: Final = 600.0
TEST_S_MAX: Final = 60
_PASSED, _FAILED = 0, 1  # pytest's exit codes
_FAILURE: Final = re.compile(r"^FAILED (\S+)", re.MULTILINE)
_SKIPPED: Final = re.compile(r"^SKIPPED ", re.MULTILINE)


class Outcome(StrEnum):
    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    SKIPPED = "not tried"  # what its tests need is not installed here
    BROKEN = "BROKEN"  # it does not apply, or nothing can be run with it


@dataclass(frozen=True, slots=True)
class Trial:
    bug: Bug
    outcome: Outcome
    words: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """How tests went: pytest's exit code, its output, and which of them failed."""

    exit_code: int
    output: str

    @property
    def failed(self) -> frozenset[str]:
        return frozenset(_FAILURE.findall(self.output))


class Field:
    """A copy of the repository, in which one bug at a time is planted. Made by `open_field`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A compiled file is known by its source's time: no two versions may have the same.
        self._times = count(1)

    def run(self, tests: Sequence[str]) -> Run:
        """Run tests on the copy as it is."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-rfs", "-m", "long or not long"),
                *("-p", "no:xdist", "-p", "no:randomly", "-p", "no:cacheprovider"),
                *(f"--timeout={TEST_S_MAX}", "--tb=no", *tests),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_S_MAX,
            cwd=self._folder,
            env=make_environment({"PYTHONPATH": str(self._folder)}),
        )
        return Run(done.returncode, done.stdout)

    def find_origin(self) -> Path:
        """Return where the copy's tests have the gateway from."""
        done = subprocess.run(
            [sys.executable, "-c", "import gateway; print(gateway.__file__)"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=make_environment({"PYTHONPATH": str(self._folder)}),
        )
        return Path(done.stdout.strip())

    def try_bug(self, bug: Bug) -> Trial:
        """Plant a bug, run its tests, and take it out again."""
        file = self._folder / bug.file
        clean = file.read_text()
        try:
            planted = bug.plant(clean)
            compile(planted, bug.file, "exec")
        except (ValueError, SyntaxError) as error:
            return Trial(bug, Outcome.BROKEN, str(error))
        self._write(file, planted)
        try:
            return _judge(bug, self.run(bug.tests))
        finally:
            self._write(file, clean)

    def _write(self, file: Path, text: str) -> None:
        file.write_text(text)
        os.utime(file, (next(self._times), next(self._times)))


@contextmanager
def open_field() -> Iterator[Field]:
    """Copy the repository; forget the copy when the block is left."""
    with tempfile.TemporaryDirectory(prefix="gateway-planted-") as folder:
        for name in COPIED:
            source, target = REPOSITORY / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        field = Field(Path(folder))
        assert field.find_origin().is_relative_to(folder), "the copy is not what is tested"
        yield field


def _judge(bug: Bug, run: Run) -> Trial:
    """Say what a run means: each test that is named must have failed, by whatever parameter."""
    if run.exit_code == _PASSED:
        is_skipped = _SKIPPED.search(run.output) is not None and " passed" not in run.output
        return Trial(bug, Outcome.SKIPPED if is_skipped else Outcome.SURVIVED)
    if run.exit_code != _FAILED:
        return Trial(bug, Outcome.BROKEN, run.output[-800:])
    silent = [test for test in bug.tests if not any(_is_of(test, each) for each in run.failed)]
    if silent:
        return Trial(bug, Outcome.SURVIVED, "not noticed by " + ", ".join(silent))
    return Trial(bug, Outcome.CAUGHT)


def _is_of(test: str, failed: str) -> bool:
    return failed == test or failed.startswith(f"{test}[")
