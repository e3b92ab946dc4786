"""Webhooks: what the gateway tells other servers, how often it tries, and what a result means.

A notification is a row of the outbox, written in the transaction of the move that it tells of, so
nothing that happened goes untold; it is delivered at least once, and its id is the same in every
attempt. A `callback` carries the task as a status read shows it, to the client's `callback_url`; a
`usage` is a CloudEvent about one settled task, to the sink of the deployment.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final
from urllib.parse import urlsplit

from gateway.domain.refusals import show

_SECOND_MS: Final = 1000
_MINUTE_MS: Final = 60 * _SECOND_MS
_HOUR_MS: Final = 60 * _MINUTE_MS
# The waits of Standard Webhooks, and one of half a minute for a receiver that is just restarting.
_WAITS_MS: Final = (
    5 * _SECOND_MS,
    30 * _SECOND_MS,
    5 * _MINUTE_MS,
    30 * _MINUTE_MS,
    2 * _HOUR_MS,
    5 * _HOUR_MS,
    10 * _HOUR_MS,
    14 * _HOUR_MS,
    20 * _HOUR_MS,
    24 * _HOUR_MS,
)
ATTEMPTS_MAX: Final = len(_WAITS_MS) + 1
HOLDING_ATTEMPTS: Final = 3
"""So many attempts, over half a minute or so, a callback holds back those after it of its task.

A receiver that restarts hears of every step in order; one that can't take a certain message hears
of the end all the same.
"""
AT_ONCE_MS: Final = 0
"""When a new notification is due, whatever clock wrote it."""
RETRY_AFTER_S_MAX: Final = 3600
WAIT_MS_MAX: Final = 27 * _HOUR_MS
"""No attempt is planned further ahead: the longest wait and its jitter."""
_JITTER: Final = 0.1
_RECEIVER_CHARS_MAX: Final = 255
_SINK: Final = "sink"
_NOBODY: Final = "?"

USAGE_EVENT_TYPE: Final = "seedance.task.settled"

_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32
_SECRET_BYTES_MIN: Final = 24
_SECRET_BYTES_MAX: Final = 64
_SECRET_SHAPE: Final = re.compile(r"whsec_([A-Za-z0-9+/]+)={0,2}\Z")
_DISTINCT_BYTES_MIN: Final = 10
_EXAMPLE_WORDS: Final = (b"change", b"example", b"secret", b"password", b"webhook", b"0123456789")
# Printed in the specification and copied into many a program.
_PUBLISHED: Final = frozenset(
    {"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}
)


class NotificationKind(StrEnum):
    CALLBACK = "callback"
    USAGE = "usage"

    @property
    def content_type(self) -> str:
        if self is NotificationKind.USAGE:
            return "application/cloudevents+json; charset=utf-8"
        return "application/json"


class NotificationState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up; an operator may have it delivered again


class DeliveryError(StrEnum):
    """Why an attempt failed. These words alone are stored and logged, never what was received."""

    URL_INVALID = "url_invalid"
    SCHEME_REFUSED = "scheme_refused"  # http, where only https is allowed
    URL_REFUSED = "url_refused"  # it is an address itself, one to which nothing is delivered
    ADDRESS_REFUSED = "address_refused"  # the name points to such an address, for now
    NAME_UNKNOWN = "name_unknown"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    CONNECTION_LOST = "connection_lost"
    ANSWER_UNREADABLE = "answer_unreadable"
    TIMED_OUT = "timed_out"
    REDIRECTED = "redirected"  # 3xx: never followed
    GONE = "gone"  # 410: the receiver wants nothing more
    REFUSED = "refused"  # any other status
    FAILED = "failed"  # a defect of ours


_FINAL_ERRORS: Final = (
    DeliveryError.GONE,
    DeliveryError.URL_INVALID,
    DeliveryError.URL_REFUSED,
    DeliveryError.SCHEME_REFUSED,
)
"""Of callbacks: their clients chose the address. The sink has not unsubscribed, and may move."""


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """How one attempt ended. `status` is None if no answer came; `error` is None after a 2xx."""

    status: int | None
    error: DeliveryError | None = None
    retry_after_s: int | None = None
    """What the receiver asked for; bounded here, whatever it says."""

    @property
    def is_delivered(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to one receiver. URL and body stay out of logs: both may hold secrets."""

    id: str
    """The receiver's `webhook-id`, by which it knows what it has seen already."""
    task_id: str
    kind: NotificationKind
    url: str = field(repr=False)
    body: bytes = field(repr=False)
    created_at_ms: int
    next_attempt_at_ms: int | None
    """None once it is delivered or dead."""
    attempt_count: int = 0
    state: NotificationState = NotificationState.PENDING
    last_status: int | None = None
    last_error: DeliveryError | None = None
    ended_at_ms: int | None = None
    """When it was delivered, or given up."""

    @property
    def is_erased(self) -> bool:
        """Whether address and body were forgotten, with the request of its task."""
        return not self.url

    @property
    def receiver(self) -> str:
        """Whose turn a delivery takes: host and port. There is one sink, wherever it is."""
        if self.kind is NotificationKind.USAGE:
            return _SINK
        return _receiver_of(self.url)


def _receiver_of(url: str) -> str:
    try:
        authority = urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        authority = ""
    return authority[:_RECEIVER_CHARS_MAX] or _NOBODY


def next_attempt_ms(attempt_count: int, now_ms: int, spread: float) -> int | None:
    """Return when to try again after `attempt_count` failures, or None to give up.

    The waits grow from seconds to a day: eleven attempts over some three days. `spread` is a random
    number in [-1, 1], so that what failed together does not come back together.
    """
    if attempt_count >= ATTEMPTS_MAX:
        return None
    wait_ms = _WAITS_MS[max(attempt_count, 1) - 1]
    return now_ms + round(wait_ms * (1 + _JITTER * spread))


def apply_result(
    notification: Notification, result: DeliveryResult, now_ms: int, spread: float
) -> Notification:
    """Return the notification after an attempt that ended `now_ms` in `result`."""
    tried = replace(
        notification,
        attempt_count=notification.attempt_count + 1,
        next_attempt_at_ms=None,
        last_status=result.status,
        last_error=result.error,
    )
    if result.is_delivered:
        return replace(tried, state=NotificationState.DELIVERED, ended_at_ms=now_ms)
    at_ms = next_attempt_ms(tried.attempt_count, now_ms, spread)
    is_final = notification.kind is NotificationKind.CALLBACK and result.error in _FINAL_ERRORS
    if at_ms is None or is_final:
        return replace(tried, state=NotificationState.DEAD, ended_at_ms=now_ms)
    asked_s = min(max(result.retry_after_s or 0, 0), RETRY_AFTER_S_MAX)
    return replace(tried, next_attempt_at_ms=max(at_ms, now_ms + asked_s * _SECOND_MS))


def redeliver(notification: Notification, now_ms: int) -> Notification:
    """Return the notification as due now, with all its attempts before it: an operator's act.

    Its id stays, so a receiver that has it already does nothing twice.
    """
    return replace(
        notification,
        state=NotificationState.PENDING,
        attempt_count=0,
        next_attempt_at_ms=now_ms,
        ended_at_ms=None,
    )


@dataclass(frozen=True, slots=True)
class SettledUsage:
    """What a settled task used and what that costs: the data of a usage event."""

    task_id: str
    project: str
    """Its id, which is for good."""
    project_name: str
    """As reports show it."""
    key: str
    model: str
    family: str
    tokens: int
    seconds: int
    videos: int
    cost_micros: int
    cost_currency: str
    charge_micros: int
    currency: str
    price_version: str
    is_estimated: bool
    submitted_at_ms: int
    settled_at_ms: int


def usage_event(usage: SettledUsage, source: str) -> dict[str, object]:
    """Return the CloudEvent (1.0, structured JSON) of one settled task.

    A task settles once, so `source` and `id` name the event for good: that is what consumers
    remove duplicates by.
    """
    settled_at = _rfc3339(usage.settled_at_ms)
    return {
        "specversion": "1.0",
        "id": f"{usage.task_id}/settled",
        "source": source,
        "type": USAGE_EVENT_TYPE,
        "time": settled_at,
        "subject": usage.task_id,
        "datacontenttype": "application/json",
        "data": {
            "project": usage.project,
            "project_name": usage.project_name,
            "key": usage.key,
            "model": usage.model,
            "family": usage.family,
            "tokens": usage.tokens,
            "seconds": usage.seconds,
            "videos": usage.videos,
            "cost_micros": usage.cost_micros,
            "cost_currency": usage.cost_currency,
            "charge_micros": usage.charge_micros,
            "currency": usage.currency,
            "price_version": usage.price_version,
            "estimated": usage.is_estimated,
            "submitted_at": _rfc3339(usage.submitted_at_ms),
            "settled_at": settled_at,
        },
    }


def generate_secret(entropy: Callable[[int], bytes]) -> str:
    """Return a new signing secret: `whsec_` and 32 bytes in base64."""
    return _PREFIX + base64.b64encode(entropy(_SECRET_BYTES)).decode("ascii")


def find_secret_flaw(secret: str) -> str | None:
    """Return why nothing may be signed with `secret`, without a character of it, or None."""
    shape = _SECRET_SHAPE.match(secret)
    if shape is None:
        return "is not a signing secret: whsec_ and 24 to 64 bytes in base64"
    try:
        key = base64.b64decode(shape[1] + "=" * (-len(shape[1]) % 4), validate=True)
    except binascii.Error:
        return "is not a signing secret: what follows whsec_ is not base64"
    if not _SECRET_BYTES_MIN <= len(key) <= _SECRET_BYTES_MAX:
        return f"has {len(key)} bytes; {_SECRET_BYTES_MIN} to {_SECRET_BYTES_MAX} are allowed"
    is_example = shape[1] in _PUBLISHED or any(word in key.lower() for word in _EXAMPLE_WORDS)
    if is_example or len(set(key)) < _DISTINCT_BYTES_MIN:
        return "is an example or has next to no entropy"
    return None


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """Return the network that `text` gives. Raises ValueError, which says what is allowed."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{show(text)} is no network; allowed are an address with its length, such as "
            "10.1.0.0/16 or ::1/128"
        ) from None
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(f"{show(text)} has bits set beyond its length; write {network}") from None


def _rfc3339(at_ms: int) -> str:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
