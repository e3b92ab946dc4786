"""The command line, run in this process on a data folder of the test's own."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.cli.main import main

_FOREIGN: Final = ("ARK_API_KEY", "ARK_BASE_URL", "DATABASE_URL", "PORT", "GATEWAY_ACTOR")


@dataclass(frozen=True, slots=True)
class Outcome:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What was printed as JSON, on one line, by a command that succeeded."""
        assert self.exit_code == 0, self.err
        assert self.out.count("\n") == 1
        return json.loads(self.out)

    @property
    def table(self) -> list[list[str]]:
        """The cells of the table that was printed, its head first."""
        assert self.exit_code == 0, self.err
        lines = self.out.splitlines()
        starts = [0, *(at for at in range(2, len(lines[0])) if lines[0][at - 2 : at] == "  ")]
        starts = [at for at in starts if lines[0][at] != " "]
        ends = [*starts[1:], None]
        return [
            [line[start:end].strip() for start, end in zip(starts, ends, strict=True)]
            for line in lines
        ]

    @property
    def complaint(self) -> str:
        """What stands on stderr, without the frame that is drawn around a wrong option."""
        words = " ".join(line.strip("│╭╮╰╯─ ") for line in self.err.splitlines())
        return " ".join(words.split())


class CommandLine:
    """Runs command lines in a folder of its own, in which `.data` is the gateway's."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self._capsys = capsys
        monkeypatch.chdir(folder)
        for name in _FOREIGN:
            monkeypatch.delenv(name, raising=False)

    def __call__(self, line: str) -> Outcome:
        exit_code = main(shlex.split(line))
        captured = self._capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    def write(self, name: str, text: str) -> str:
        """Write a file beside the data folder; return its name."""
        (self.folder / name).write_text(text)
        return name
