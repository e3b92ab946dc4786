"""The ports: what the services need of the world, as protocols, and `Runtime`, which holds them.

`gateway/runtime.py` alone names what stands behind them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from gateway.background import Background, SharedReads
from gateway.config import Config
from gateway.domain.attempts import NO_MARKERS, ListedTask, Markers
from gateway.domain.models import Catalog
from gateway.domain.prices import PriceList
from gateway.domain.rates import RateDecision, RateLimit, RateStanding
from gateway.domain.requests import NormalizedRequest
from gateway.domain.routing import RouteTable
from gateway.domain.tasks import Event, Observation, TaskError
from gateway.domain.webhooks import DeliveryError, DeliveryResult, NotificationKind
from gateway.ids import Entropy, IdMaker
from gateway.key_cache import KeyCache
from gateway.limit_cache import LimitCache
from gateway.observability.logging import Logger
from gateway.observability.metrics import Metrics
from gateway.places import Places
from gateway.status_cache import StatusCache
from gateway.steadiness import Steadiness

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
    LIMITS = "limits"
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


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page of an upstream's list of all its tasks of the last days."""

    items: Sequence[ListedTask]
    total: int | None
    """How many tasks the whole list has, if the upstream tells."""
    received_count: int
    """Entries that came; more than `items` where some could not be read, or were not asked for."""

    @property
    def is_whole(self) -> bool:
        """Whether every entry was read; else nothing may be concluded from a task's absence."""
        return self.received_count == len(self.items)


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
        markers: Markers = NO_MARKERS,
        callback_url: str | None = None,
    ) -> Submission:
        """Send the paid POST once, with `markers` in it.

        `callback_url` is an absolute address of ours, which the upstream will call.

        Raises: UpstreamUnavailable (no byte left), UpstreamRejected or UpstreamAccount (a definite
        no), UpstreamAmbiguous (anything else).
        """
        ...

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        """Read one task; None if the upstream does not know it (404)."""
        ...

    async def find_task(self, credential: str, upstream_task_id: str) -> ListedTask | None:
        """Read one task as a list shows it; None if the upstream does not know it (404)."""
        ...

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        """Read up to 500 tasks by one list call; a task that is not listed is absent."""
        ...

    async def list_tasks(
        self, credential: str, *, page_num: int, page_size: int, service_tier: str | None = None
    ) -> ListedPage:
        """Read one page, from 1, of all tasks of the credential's account, mostly newest first.

        Pages shift while tasks are made. Without `service_tier` a list may hold the tier `default`
        alone. The last page is the one after which `total` is reached, or an empty one: an
        upstream may send fewer than the 1 to 500 asked for.
        """
        ...

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        """Cancel a queued task. Raises RunningTaskDeletion, TaskNotFound or an UpstreamFault."""
        ...

    async def check(self, credential: str) -> None:
        """Prove the credential by one free read; raises what a submit would."""
        ...

    async def close(self) -> None: ...


class RateLimiter(Protocol):
    """Counts submits by the minute. It never fails: a limiter in trouble lets through too much."""

    async def take(self, limits: Sequence[RateLimit]) -> RateDecision:
        """Let one request through all of `limits`, or through none of them."""
        ...

    async def look(self, limits: Sequence[RateLimit]) -> Sequence[RateStanding]:
        """Return what `limits` have left, and take nothing."""
        ...


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An outcome of a submit that the database did not take."""

    task_id: str
    event: Event
    """ACCEPTED, REFUSED or LOST."""
    at_ms: int
    upstream_task_id: str | None = None
    upstream_request_id: str | None = None
    error: TaskError | None = None


@dataclass(frozen=True, slots=True)
class JournalContents:
    """What a journal holds; a damaged line may have been an entry."""

    entries: Sequence[JournalEntry]
    damaged_count: int


class Journal(Protocol):
    """Where outcomes go while the database refuses. Raises StorageUnavailable if it does, too."""

    async def append(self, entry: JournalEntry) -> None:
        """Make `entry` durable. An entry appended again is the same one."""
        ...

    async def read_all(self) -> JournalContents:
        """Return all that waits to be stored, the oldest first."""
        ...

    async def forget(self, entries: Collection[JournalEntry]) -> None:
        """Drop entries that are in the database now, and set what is damaged aside."""
        ...

    async def close(self) -> None: ...


class Webhooks(Protocol):
    """Posts to receivers of one kind, whom strangers may have named."""

    def find_flaw(self, url: str) -> DeliveryError | None:
        """Return why nothing can ever be delivered to `url`, as far as no name need be resolved."""
        ...

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> DeliveryResult:
        """Send `body` once. Never raises for what a receiver is or does."""
        ...


class Signer(Protocol):
    """Signs what is posted, so that receivers know whom it is from."""

    def headers(self, message_id: str, body: bytes, now_ms: int) -> Mapping[str, str]:
        """Return the header lines of an attempt that begins now."""
        ...


@dataclass(frozen=True, slots=True)
class WriteFailure:
    """That the store does not take what is written."""

    since_ms: int
    """When the first of an unbroken row of failures was seen."""
    message: str
    code: str | None
    """The driver's word for it, such as SQLITE_FULL."""


class Lifecycle:
    """Whether this process takes work."""

    def __init__(self) -> None:
        self.is_draining = False
        """Set once, by the server, when it is told to stop."""
        self.is_reconciling = False
        """Set while restored data is compared with the upstreams: reads go on, submits wait."""
        self.uncompared: set[str] = set()
        """The accounts whose lists it is still to be compared with, as `upstream/credential`."""
        self.write_failure: WriteFailure | None = None
        """Of the newest transaction that was to write; None if that was committed."""
        self.is_announced = False
        """Whether the database was told that this process lives."""
        self.announced_at_s: float | None = None
        """When it was told so last. None: not, or that failed since."""
        self.announced_since_s = 0.0
        """Since when it was told so without interruption."""


class AuditState:
    """What the last audit of the ledger said, for probes."""

    def __init__(self) -> None:
        self.differences: Sequence[str] = ()
        """The first of them, in a sentence each."""
        self.differences_count = 0
        self.at_ms: int | None = None
        self.rests_until_s = 0.0


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
    chores: Background
    """What is left to do after an answer."""
    reads: SharedReads
    prices: PriceList
    limiter: RateLimiter
    limit_cache: LimitCache
    journal: Journal
    webhooks: Mapping[NotificationKind, Webhooks]
    places: Mapping[NotificationKind, Places]
    signer: Signer
    audit: AuditState
    process_id: str
    """Drawn at every start: the owner of this process's attempts."""
    lifecycle: Lifecycle
    steadiness: Steadiness
