"""The documents' commands do what the documents say. See tests/support/documents.py for marks."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.captured import Captured
from tests.support.documents import Block, Shell, read_blocks
from tests.support.gateway import REPOSITORY, make_environment
from tests.support.programs import run_sandbox_program

README = REPOSITORY / "README.md"
THIS_RUN = ("make test\n", "make test-long\n")
NOT_COPIED = (".git", ".venv", ".data", ".*_cache", ".hypothesis", "__pycache__", "clients")


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text() if path.exists() else ""
    name = str(path.relative_to(REPOSITORY))
    return list(read_blocks(text, name, runs_unmarked=path == README))


DOCUMENTS = (README, *sorted((REPOSITORY / "docs").glob("*.md")))
RUNNING = [
    path
    for path in DOCUMENTS
    if path == README or any(not (block.not_run or block.is_live) for block in blocks_of(path))
]
NOT_RUNNING = [block for path in DOCUMENTS for block in blocks_of(path) if block.not_run]


def copy_repository(folder: Path) -> Path:
    copy = folder / "seedance-gateway"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return copy


def lend_environment(copy: Path) -> None:
    """Let `make` find, in the copy, the virtual environment in which the tests run."""
    (copy / ".venv").mkdir()
    (copy / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    for stamp in (".base", ".dev"):
        (copy / ".venv" / stamp).touch()


def run_blocks(path: Path, copy: Path, captured: Captured) -> None:
    """Run a document's blocks in the copy, on free ports."""
    environ = make_environment({"ARGS": "--port 0", "PYTHONPATH": str(copy)})
    blocks = [block for block in blocks_of(path) if not (block.not_run or block.is_live)]
    assert blocks
    with Shell(copy, environ, captured) as shell:
        for block in blocks:
            if block.code not in THIS_RUN:
                shell.run(block)


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.name)
def test_the_commands_run(path: Path, tmp_path: Path, captured: Captured) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    copy = copy_repository(tmp_path)
    lend_environment(copy)
    run_blocks(path, copy, captured)


def test_the_live_commands_run_with_a_sandbox_for_the_provider(
    tmp_path: Path, captured: Captured
) -> None:
    copy = copy_repository(tmp_path)
    lend_environment(copy)
    environ = make_environment(
        {
            "PYTHONPATH": str(copy),
            "GATEWAY_SERVER__PORT": "0",
            "GATEWAY_SERVER__METRICS_PORT": "0",
        }
    )
    live = [block for block in blocks_of(README) if block.is_live]
    printed = []
    with (
        run_sandbox_program(tmp_path / "provider", captured) as url,
        Shell(copy, environ, captured) as shell,
    ):
        for block in live:
            code = block.code.replace("ARK_API_KEY=...", "ARK_API_KEY=any")
            code = code.replace("https://ark.cn-beijing.volces.com", url)
            printed.append(shell.run(replace(block, code=code)))

    started, made = printed
    assert "upstream ark, credential default" in started
    assert "Gateway  http://" in started
    assert "sg_live_" in made


@pytest.mark.parametrize("block", NOT_RUNNING, ids=lambda block: block.place)
def test_the_commands_that_can_not_run(block: Block) -> None:
    pytest.skip(f"{block.place}: {block.not_run}")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_readme_runs_on_a_machine_without_a_virtual_environment(
    tmp_path: Path, captured: Captured
) -> None:
    run_blocks(README, copy_repository(tmp_path), captured)


TEXT = """\
```sh
first
```

```json
{"id": 1}
```

<!-- not run: costs money -->
```sh
second
```

```yaml
a: b
```

<!-- run -->

```console
$ third
an answer
$ fourth
```
"""


def test_blocks_are_read_with_their_marks_and_answers() -> None:
    first, second, third = read_blocks(TEXT, "page", runs_unmarked=True)
    (run_second, marked) = read_blocks(TEXT, "page", runs_unmarked=False)

    assert (first.place, first.code, first.not_run) == ("page:1", "first\n", "")
    assert first.answer == '{"id": 1}\n'
    assert (second.code, second.not_run, second.answer) == ("second\n", "costs money", None)
    assert (third.code, third.not_run) == ("third\nfourth\n", "")
    assert (run_second, marked) == (second, third)


def test_a_block_that_does_not_run_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="page:2: say why"):
        list(read_blocks("<!-- not run: -->\n```sh\na\n```\n", "page", runs_unmarked=True))


@pytest.fixture
def shell(tmp_path: Path, captured: Captured) -> Shell:
    return Shell(tmp_path, make_environment(), captured)


def test_variables_live_on_from_block_to_block(shell: Shell) -> None:
    with shell:
        shell.run(Block("page:1", "NAME='a b'\n", "", None))
        assert shell.run(Block("page:2", 'echo "$NAME"\n', "", None)) == "a b\n"


def test_a_failing_block_fails(shell: Shell) -> None:
    with shell, pytest.raises(AssertionError, match="page:1"):
        shell.run(Block("page:1", "false | cat\n", "", None))


def test_an_answer_without_the_promised_fields_fails(shell: Shell) -> None:
    with shell, pytest.raises(AssertionError, match="page:1"):
        shell.run(Block("page:1", "echo '{\"error\": {}}'\n", "", '{"id": 1}\n'))
