"""docs/sandbox.md says what is so: its commands run, its tables are complete."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.sandbox.faults import Action, Operation, Point
from gateway.sandbox.magic import NAMES
from gateway.sandbox.settings import PROFILES
from tests.sandbox.support import ARK, Upstream, body

PAGE = (Path(__file__).parents[2] / "docs/sandbox.md").read_text()
PROMPTS = re.findall(r"^\| `(sandbox:[^`]+)` \|", PAGE, re.MULTILINE)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(text: str) -> set[str]:
    return {name.partition("=")[0] for name in re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_commands_run(upstream: Upstream) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    script = "\n".join(blocks).replace("http://127.0.0.1:8081", upstream.url)
    process = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert len(blocks) == 5
    assert (await upstream.truth())["creates"] == 1


async def test_every_magic_prompt_of_the_page_works(upstream: Upstream) -> None:
    names = {re.split("[:=]", prompt)[1] for prompt in PROMPTS}
    assert names == NAMES
    for prompt in PROMPTS:
        if "slow-400" in prompt or "slow=" in prompt:
            continue
        answer = await upstream.http.post(ARK, json=body(f"a boat {prompt}"))
        assert "is not a command" not in answer.text


def test_the_tables_are_complete() -> None:
    faults = section("Faults")

    assert first_column(section("Profiles")) == set(PROFILES)
    assert set(Point) | set(Action) <= first_column(faults)
    assert all(f"`{operation}`" in faults for operation in Operation)


async def test_the_truth_has_the_fields_of_the_page(upstream: Upstream) -> None:
    await upstream.create()
    truth = await upstream.truth()
    line = next(line for line in PAGE.splitlines() if line.startswith("| `tasks[]`"))
    named = set(re.findall(r"`([a-z_]+)`", line.partition(":")[2]))

    assert set(truth["tasks"][0]) == named
    assert set(truth) - {"tasks"} <= first_column(section("What really happened"))
