"""What a race is, and how a test has one carried out in processes of their own."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from pydantic import SecretStr

from gateway.clock import SystemClock
from gateway.config import Config, CredentialConfig, StorageConfig, UpstreamConfig
from gateway.domain.keys import Principal
from gateway.domain.tasks import Observation
from gateway.observability.logging import open_logger
from gateway.ports import Runtime
from gateway.runtime import open_runtime
from gateway.services import admin
from tests.support.fake_upstream import FakeUpstream, Submitted
from tests.support.gateway import REPOSITORY, make_environment

MODEL: Final = "doubao-seedance-1-0-pro-250528"
USAGE_URL: Final = "https://usage.example/events"
RACE_S_MAX: Final = 1500.0
TOKENS: Final = 10_000
"""What every task that succeeds is said to have used, less than was held for it."""

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Race:
    """What is raced for, where, and by how many."""

    act: str
    data_dir: str
    database_url: str | None = None
    racers_count: int = 16
    attempts_count: int = 1
    """Of each racer, or rounds of all."""
    seed: int = 0
    accounts: tuple[tuple[str, str], ...] = (("default", "Key000000000"),)
    """Names of projects, each with a key's id."""

    @property
    def config(self) -> Config:
        upstream = UpstreamConfig(
            name="fake",
            base_url="http://127.0.0.1:9/api/v3",
            credentials=(CredentialConfig(env="FAKE_CREDENTIAL"),),
        )
        url = None if self.database_url is None else SecretStr(self.database_url)
        return Config.model_validate(
            {
                "data_dir": self.data_dir,
                "upstreams": (upstream,),
                # So many processes on two cores wait for each other longer than servers would.
                "storage": StorageConfig(url=url, lock_timeout_s=60, statement_timeout_s=60),
                "server": {"public_url": "https://gateway.example"},
                "submit": {"max_unknown": 10**6, "max_unknown_key": 10**6},
                "webhooks": {"usage_url": USAGE_URL},
            }
        )


class Barrier(Protocol):
    def wait(self) -> int: ...


@dataclass
class RacingUpstream(FakeUpstream):
    """One of several that make up one upstream: its tasks' ids are its own."""

    prefix: str = ""

    def make(self, submitted: Submitted, upstream_task_id: str) -> str:
        return FakeUpstream.make(self, submitted, f"{self.prefix}{upstream_task_id}")


@dataclass(frozen=True, slots=True)
class Racer:
    """One of the processes: a gateway's runtime, engines and upstream of its own."""

    runtime: Runtime
    race: Race
    number: int
    barrier: Barrier
    principals: Sequence[Principal]

    @property
    def upstream(self) -> RacingUpstream:
        return upstream_of(self.runtime)


@asynccontextmanager
async def open_gateway(race: Race, name: str = "test") -> AsyncIterator[Runtime]:
    """Open a gateway's runtime; what it knows of its upstream is its own."""
    async with open_runtime(
        race.config,
        environ={},
        clock=SystemClock(),
        log=open_logger("warning", "json", sys.stderr),
        connects_upstreams=False,
        checks_keys=False,
    ) as opened:
        yield replace(opened, upstreams={"fake": RacingUpstream(prefix=f"{name}-")})


def upstream_of(runtime: Runtime) -> RacingUpstream:
    upstream = runtime.upstreams["fake"]
    assert isinstance(upstream, RacingUpstream)
    return upstream


async def find_principals(runtime: Runtime, race: Race) -> Sequence[Principal]:
    """Return who calls, with the projects made that are not there yet."""
    known = {project.name: project for project in await admin.list_projects(runtime)}
    for name, _ in race.accounts:
        if name not in known:
            known[name] = await admin.create_project(runtime, "test", name)
    return [Principal(known[name].id, key_id) for name, key_id in race.accounts]


def a_body(name: str) -> JsonObject:
    """Return a request that is held at the same price as every other, and identical to none."""
    text = f"a paper boat, {name} --resolution 480p --duration 5"
    return {"model": MODEL, "content": [{"type": "text", "text": text}]}


def succeeded() -> Observation:
    return Observation("succeeded", {"usage": {"completion_tokens": TOKENS}, "duration": 5})


def run_race(race: Race) -> Sequence[JsonObject]:
    """Carry out a race in a process of its own; return what each racer tells of it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.racing", json.dumps(asdict(race))],
        check=False,
        capture_output=True,
        text=True,
        timeout=RACE_S_MAX,
        cwd=REPOSITORY,
        env=make_environment(),
    )
    assert done.returncode == 0, done.stderr[-40000:]
    told: list[JsonObject] = json.loads(done.stdout)
    return told


def race_from_json(text: str) -> Race:
    order = json.loads(text)
    accounts = tuple((name, key_id) for name, key_id in order.pop("accounts"))
    return Race(**order, accounts=accounts)


def folder_of(race: Race) -> Path:
    return Path(race.data_dir)


def count_outcomes(told: Sequence[JsonObject]) -> Counter[str]:
    """Return all racers' outcomes together."""
    outcomes: Counter[str] = Counter()
    for each in told:
        outcomes.update(each["outcomes"])
    return outcomes
