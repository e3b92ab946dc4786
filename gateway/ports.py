"""The ports: what the services need of the world, as protocols, and `Runtime`, which holds them.

`gateway/runtime.py` alone names what stands behind them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from gateway.background import Background, SharedReads
from gateway.config import Config
from gateway.domain.models import Catalog
from gateway.domain.requests import NormalizedRequest
from gateway.domain.routing import RouteTable
from gateway.domain.tasks import Observation
from gateway.ids import Entropy, IdMaker
from gateway.key_cache import KeyCache
from gateway.observability.logging import Logger
from gateway.observability.metrics import Metrics
from gateway.status_cache import StatusCache

if TYPE_CHECKING:  # the only database word above the storage floor is a type
    from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")

Query = Callable[Concatenate["Connection", P], T]
"""One transaction: a plain function that can't await. Returning commits, raising rolls back."""


class Clock(Protocol):
    def now_ms(self) -> int:
        """UTC epoch milliseconds."""
        ...

    def monotonic_s(self) -> float: ...

    async def sleep(self, delay_s: float) -> None: ...


class ChangeKind(StrEnum):
    TASK = "task"
    KEYS = "keys"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that another process committed. `ALL` means: trust nothing you keep."""

    kind: ChangeKind
    task_id: str = ""
    version: int = 0


class Database(Protocol):
    """Runs query functions. Raises StorageUnavailable when the database can't answer."""

    @property
    def name(self) -> str:
        """`sqlite` or `postgresql`."""
        ...

    async def write(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` as one durable transaction; shielded from cancellation once started."""
        ...

    async def read(self, fn: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn` on a read-only connection that sees every earlier `write`."""
        ...

    async def watch(self, on_change: Callable[[Change], None]) -> None:
        """Report what other processes commit, within 250 ms or so, until cancelled."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A complete 2xx answer to a submit, with the upstream's id in it."""

    upstream_task_id: str
    upstream_request_id: str | None = None


class Upstream(Protocol):
    """A provider. Every method raises an UpstreamFault; none is retried by the adapter.

    `credential` is a configured credential's name, `deployment` the upstream's name of the model.
    """

    @property
    def name(self) -> str: ...

    @property
    def credentials(self) -> Sequence[str]:
        """The names of its configured credentials, the preferred one first."""
        ...

    @property
    def supports_list(self) -> bool: ...

    @property
    def supports_cancel(self) -> bool: ...

    async def submit(
        self,
        credential: str,
        deployment: str,
        request: NormalizedRequest,
        *,
        draft_task_id: str | None,
        attempt_id: str,
    ) -> Submission:
        """Send the paid POST once.

        Raises: UpstreamUnavailable (no byte left), UpstreamRejected or UpstreamAccount (a definite
        no), UpstreamAmbiguous (anything else).
        """
        ...

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        """Read one task; None if the upstream does not know it (404)."""
        ...

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        """Read up to 500 tasks by one list call; a task that is not listed is absent."""
        ...

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        """Cancel a queued task. Raises RunningTaskDeletion, TaskNotFound or an UpstreamFault."""
        ...

    async def check(self, credential: str) -> None:
        """Prove the credential by one free read; raises what a submit would."""
        ...

    async def close(self) -> None: ...


class Lifecycle:
    """Whether this process still takes work. Set once, by the server, when it is told to stop."""

    def __init__(self) -> None:
        self.is_draining = False


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything the services need, opened by `open_runtime`; they take it first."""

    config: Config
    clock: Clock
    ids: IdMaker
    entropy: Entropy
    random: Random
    db: Database
    upstreams: Mapping[str, Upstream]
    routing: RouteTable
    catalog: Catalog
    pepper: bytes
    metrics: Metrics
    log: Logger
    status_cache: StatusCache
    key_cache: KeyCache
    background: Background
    """Submits in progress."""
    reads: SharedReads
    lifecycle: Lifecycle
