"""Code blocks of the documents, and a shell that runs them as a reader would, one after the other.

README.md: every `sh` and `console` block runs, unless `<!-- not run: REASON -->` stands before it.
docs/*.md: those run that have `<!-- run -->` before them.
Blocks with `<!-- live -->` before them run by themselves: a sandbox stands in for the provider.

The blocks of a document share a copy of the repository and their variables. A block may start a
server: the shell goes on as soon as that has said where it listens. A `json` block right behind
another one is the answer that the reader is promised: the same fields must come.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.captured import Captured

_BLOCK: Final = re.compile(
    r"""
    (?: ^<!--[ ](?P<mark>[^\n]+?)[ ]-->\n\n? )?
    ^```(?P<language>sh|console)\n
    (?P<code>.*?)
    ^```\n
    (?: \n```json\n (?P<answer>.*?) ^```\n )?
    """,
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_NOT_RUN: Final = re.compile(r"not run: (?P<reason>\S.*)\Z")
_RUN: Final = "run"
_LIVE: Final = "live"
_LISTENING: Final = re.compile(r"(Gateway|Metrics|Sandbox|Key) +(\S+)")
_PUBLISHED_URLS: Final = {
    "Gateway": "http://127.0.0.1:8080",
    "Metrics": "http://127.0.0.1:9090/metrics",
    "Sandbox": "http://127.0.0.1:8081",
}
_LAST_SAID: Final = "Key"
_LAST_SAID_BY: Final = (
    (re.compile(r"seedance-gateway sandbox\b"), "Sandbox"),
    (re.compile(r"seedance-gateway serve\b(?!.*--sandbox)"), "Metrics"),
)
"""What servers say last that have no key to tell."""
_ON_FREE_PORTS: Final = re.compile(r"(seedance-gateway (?:sandbox|serve))\b")
_STATE: Final = ".variables"
_SCRIPT: Final = f"set -a; if [ -f {_STATE} ]; then . ./{_STATE}; fi\n{{}}\nexport -p > {_STATE}\n"
_STOP_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class Block:
    """A block of shell commands. `not_run` says why it is not run; empty if it is."""

    place: str
    code: str
    not_run: str
    answer: str | None
    is_live: bool = False


def read_blocks(text: str, name: str, *, runs_unmarked: bool) -> Iterator[Block]:
    """Yield the document's blocks of shell commands.

    Raises: ValueError for a block that is said not to run without a reason.
    """
    for match in _BLOCK.finditer(text):
        place = f"{name}:{text.count(chr(10), 0, match.start('code'))}"
        mark = match["mark"] or ""
        reason = _NOT_RUN.match(mark)
        if mark.startswith("not run") and reason is None:
            raise ValueError(f"{place}: say why it is not run")
        code = match["code"]
        if match["language"] == "console":
            code = "".join(re.findall(r"^\$ (.*\n)", code, re.MULTILINE))
        if reason is not None:
            yield Block(place, code, reason["reason"], match["answer"])
        elif mark in {_RUN, _LIVE} or runs_unmarked:
            yield Block(place, code, "", match["answer"], is_live=mark == _LIVE)


@dataclass(slots=True)
class Shell:
    """Runs blocks in a folder. Leaving it stops the servers that they started."""

    folder: Path
    environ: Mapping[str, str]
    captured: Captured
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self.servers:
            _stop(server)

    def run(self, block: Block) -> str:
        """Return what the block printed; AssertionError if it failed or kept no promise."""
        code = block.code
        for published, url in self.urls.items():
            code = code.replace(published, url)
        code = _ON_FREE_PORTS.sub(r"\1 --port 0", code)
        log_path = self.captured.new_path("document.stderr.log")
        with log_path.open("w") as log:
            process = subprocess.Popen(
                ["bash", "-eu", "-o", "pipefail", "-c", _SCRIPT.format(code)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.folder,
                env=dict(self.environ),
                start_new_session=True,
            )
        self.servers.append(process)
        printed = self._read(process, _find_last_said(block.code))
        if process.poll() is not None:
            problem = log_path.read_text()[-2000:]
            assert process.returncode == 0, f"{block.place}: {code}{printed}{problem}"
        if block.answer is not None:
            assert set(json.loads(printed)) == set(json.loads(block.answer)), block.place
        return printed

    def _read(self, process: subprocess.Popen[str], last_said: str) -> str:
        """Return the output up to its end, or up to where a server says that it listens."""
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            said = _LISTENING.match(line)
            if said is None:
                continue
            if said[1] in _PUBLISHED_URLS:
                self.urls[_PUBLISHED_URLS[said[1]]] = said[2]
            elif said[1] == _LAST_SAID:
                self.captured.add_key(said[2])
            if said[1] == last_said:
                return printed
        process.wait()
        return printed


def _find_last_said(code: str) -> str:
    found = (word for pattern, word in _LAST_SAID_BY if pattern.search(code))
    return next(found, _LAST_SAID)


def _stop(process: subprocess.Popen[str]) -> None:
    """End the block's whole process group."""
    try:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        assert process.stdout is not None
        process.stdout.close()
