"""What every process of every simulation is made from: read once, never changed."""

import asyncio
import io
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from pydantic import SecretStr

from gateway.background import Background, SharedReads
from gateway.config import Config, CredentialConfig, UpstreamConfig
from gateway.delivery.signing import Signer
from gateway.domain import keys as key_rules
from gateway.ids import IdMaker
from gateway.key_cache import KeyCache
from gateway.limit_cache import LimitCache
from gateway.limits.memory import MemoryRateLimiter
from gateway.observability.logging import Logger, open_logger
from gateway.observability.metrics import Metrics
from gateway.ports import AuditState, Lifecycle, Runtime
from gateway.runtime import _open_places, _open_status_cache, open_runtime
from gateway.steadiness import Steadiness
from tests.simulation.clock import SimulatedClock
from tests.simulation.database import Foundry
from tests.simulation.log import SimulatedLog
from tests.simulation.receivers import SECRET, SINK_PATH, Receiver, address_of
from tests.simulation.world import CREDENTIAL, UPSTREAM

PROJECTS: Final = ("red", "blue")
PEPPER: Final = random.Random("pepper").randbytes(32).hex()
PUBLIC_URL: Final = "http://gateway.example"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one simulated deployment has configured otherwise than another."""

    has_callbacks: bool = True
    is_exclusive: bool = False
    """The upstream's account is the gateway's alone."""
    marks_identifier: bool = False
    marks_expiry: bool = False
    unknown_policy: str = "hold"
    timezone: str = "UTC"
    sink: Receiver = Receiver.GOOD


class Machine:
    """Makes runtimes, and the databases behind them."""

    def __init__(self, data_dir: Path) -> None:
        self.keys = _make_keys()
        self.foundry = Foundry(self.keys, PEPPER.encode())
        self._data_dir = data_dir
        self._template = asyncio.run(_open_template(data_dir))
        self._configs: dict[Settings, Config] = {}
        self._signer = Signer((SecretStr(f"whsec_{SECRET}"),))

    def build(
        self,
        settings: Settings,
        seed: str,
        clock: SimulatedClock,
        log: SimulatedLog,
        **ports: Any,
    ) -> Runtime:
        """Return the runtime of a new process, which keeps nothing of others."""
        config = self._configs.get(settings)
        if config is None:
            config = self._configs[settings] = make_config(self._data_dir, settings)
        entropy = random.Random(f"{seed}:entropy").randbytes
        return replace(
            self._template,
            config=config,
            clock=clock,
            ids=IdMaker(entropy),
            entropy=entropy,
            random=random.Random(f"{seed}:spread"),
            log=cast("Logger", log),
            metrics=Metrics(),
            status_cache=_open_status_cache(config.status),
            key_cache=KeyCache(config.auth.cache_keys_max, config.auth.cache_s),
            limiter=MemoryRateLimiter(clock, config.limits.rates_count_max),
            limit_cache=LimitCache(config.auth.cache_keys_max),
            places=_open_places(config),
            signer=self._signer,
            audit=AuditState(),
            process_id=entropy(8).hex(),
            lifecycle=Lifecycle(),
            steadiness=Steadiness(clock),
            **ports,
        )

    @asynccontextmanager
    async def backgrounds(self) -> AsyncIterator[tuple[Background, Background, SharedReads]]:
        """Open what a process does its work in, beside requests and loops."""
        async with Background() as background, Background() as chores:
            yield background, chores, SharedReads(chores)


def make_config(data_dir: Path, settings: Settings = Settings()) -> Config:
    """Return the configuration of a simulated gateway."""
    world = UpstreamConfig(
        name=UPSTREAM,
        base_url="http://127.0.0.1:9/api/v3",
        credentials=(CredentialConfig(name=CREDENTIAL, env="WORLD_CREDENTIAL"),),
        markers={
            "exclusion": settings.is_exclusive,
            "safety_identifier": settings.marks_identifier,
            "expires_after": settings.marks_expiry,
        },
    )
    return Config(
        data_dir=data_dir,
        server={"public_url": PUBLIC_URL if settings.has_callbacks else None},
        auth={"pepper": SecretStr(PEPPER)},
        upstreams=(world,),
        submit={"unknown_policy": settings.unknown_policy},
        observer={"tick_s": 2.0},
        finance={"timezone": settings.timezone},
        webhooks={"usage_url": address_of(settings.sink, SINK_PATH)},
    )


def _make_keys() -> Mapping[str, str]:
    """Return a client key of each project."""
    return {
        name: key_rules.generate(random.Random(number).randbytes)
        for number, name in enumerate(PROJECTS)
    }


async def _open_template(data_dir: Path) -> Runtime:
    """Return a runtime, closed again, whose unchanging parts all processes share."""
    async with open_runtime(
        make_config(data_dir),
        environ={"WORLD_CREDENTIAL": "a credential of nobody"},
        log=open_logger("error", "json", io.StringIO()),
    ) as runtime:
        return runtime
