"""The sandbox as a program of its own, with an account for each trial and no limits of rate.

`python -m tests.chaos.upstream --data-dir DIR --accounts N` prints its URL when it answers.
"""

import argparse
import json
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.sandbox.server import main_sandbox
from gateway.sandbox.settings import SandboxLimits, SandboxSettings
from tests.support.gateway import REPOSITORY, START_S_MAX, make_environment

TIME_SCALE: Final = 50_000.0
"""A task has ended a few milliseconds after it was made."""
_UNLIMITED: Final = SandboxLimits(
    rpm=None,
    rpm_4k=None,
    concurrency=None,
    concurrency_4k=None,
    queued_max=None,
    get_per_s=None,
    list_per_s=None,
    delete_per_s=None,
)

Truth = Mapping[str, Any]
"""One task of the truth log."""


@dataclass(slots=True)
class Sandbox:
    """A running one. Each account is used by one trial, so that trials don't see each other."""

    url: str
    client: httpx.Client
    account_count: int = 0

    def open_account(self) -> str:
        """Return the credential of an account that nobody has used."""
        self.account_count += 1
        return credential_of(self.account_count)

    def read_truth(self, credential: str | None = None) -> list[Truth]:
        """Return every task really made, or those of one account."""
        answer = self.client.get("/_sandbox/truth").raise_for_status()
        tasks: list[Truth] = answer.json()["tasks"]
        return [task for task in tasks if credential in {None, task["account"]}]

    def set_scale(self, scale: float) -> None:
        """Let tasks live at this speed from now on."""
        self.client.put("/_sandbox/clock", json={"scale": scale}).raise_for_status()

    def set_faults(self, *rules: Mapping[str, object]) -> None:
        """Replace the faults."""
        self.client.put("/_sandbox/faults", json={"rules": list(rules)}).raise_for_status()


def credential_of(number: int) -> str:
    """Return the credential of an account, which goes by the same name."""
    return f"sandbox-account-{number:05d}"


@contextmanager
def run_upstream(
    data_dir: Path, *, account_count: int = 2000, time_scale: float = TIME_SCALE
) -> Iterator[Sandbox]:
    """Run it until the block is left; what it says goes to `data_dir`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.chaos.upstream", "--data-dir", str(data_dir)]
    command += ["--accounts", str(account_count), "--time-scale", str(time_scale)]
    with (
        (data_dir / "upstream.log").open("wb") as log,
        subprocess.Popen(
            command,
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
            with httpx.Client(base_url=url, trust_env=False, timeout=START_S_MAX) as client:
                yield Sandbox(url, client)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.chaos.upstream")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--accounts", type=int, default=1)
    parser.add_argument("--time-scale", type=float, default=TIME_SCALE)
    options = parser.parse_args()
    names = [credential_of(number) for number in range(1, options.accounts + 1)]
    settings = SandboxSettings(
        data_dir=options.data_dir,
        time_scale=options.time_scale,
        keys={name: name for name in names},
        limits=_UNLIMITED,
        media_fetch_s=0.0,
    )
    main_sandbox(settings, lambda url: print(json.dumps({"url": url}), flush=True))


if __name__ == "__main__":
    main()
