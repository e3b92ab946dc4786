"""A minimal client in each language in which the published page prints its sample request."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from gateway.ids import is_task_id
from tests.support import published
from tests.support.gateway import REPOSITORY, Gateway

CLIENTS = REPOSITORY / "tests" / "clients"
TOOLS = {
    "c": ("cc",),
    "csharp": ("mcs", "mono"),
    "dart": ("dart",),
    "go": ("go",),
    "http": ("python3",),
    "java": ("java",),
    "javascript": ("node",),
    "objective-c": ("gcc", "gnustep-config"),
    "ocaml": ("ocaml",),
    "php": ("php",),
    "python": ("python3",),
    "r": ("Rscript",),
    "ruby": ("ruby",),
    "shell": ("curl",),
    "swift": ("swiftc",),
}
RUN_S_MAX = 100.0
"""A compiler without a warm cache builds its whole standard library first."""


@pytest.mark.parametrize("language", TOOLS)
def test_the_sample_program_submits_a_task(
    language: str, gateway: Gateway, client: httpx.Client, tmp_path: Path
) -> None:
    for tool in TOOLS[language]:
        if shutil.which(tool) is None:
            pytest.skip(f"{language}: {tool} is not installed")

    done = subprocess.run(
        ["sh", str(CLIENTS / language / "run.sh")],
        check=False,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        env={
            **os.environ,
            "GATEWAY_URL": gateway.url,
            "GATEWAY_KEY": gateway.key or "",
            "BUILD": str(tmp_path),
        },
    )

    assert done.returncode == 0, done.stdout + done.stderr
    task_id = json.loads(done.stdout)["id"]
    assert is_task_id(task_id)
    request = client.get(f"/seedance/generations/{task_id}").json()["request"]
    assert request["model"] == published.MODEL
    assert request["content"][0] == {"type": "text", "text": published.PROMPT}


def test_every_sample_program_has_its_tools_named() -> None:
    assert {path.parent.name for path in CLIENTS.glob("*/run.sh")} == set(TOOLS)
