"""Those who are told: the callback addresses of clients and the sink of usage events.

What kind of receiver an address has stands in its host's name. All that arrived is kept, with what
the gateway got to know of it, so that the judge can say who was told what.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final
from urllib.parse import urlsplit

from gateway.domain.webhooks import DeliveryError, DeliveryResult
from tests.simulation.loop import Owner, SimulatedLoop

SECRET: Final = base64.b64encode(hashlib.sha256(b"webhooks").digest()).decode()
SINK_PATH: Final = "/usage"
_TIMEOUT_S: Final = 15.0
_AWAY_S: Final = 3600.0


class Receiver(StrEnum):
    """What a receiver is like. The words are parts of host names."""

    GOOD = "good"
    SLOW = "slow"  # takes the message, and answers too late in two of three cases
    FLAKY = "flaky"  # answers 500 half of the time
    FORGETFUL = "forgetful"  # takes the message, and the answer is lost half of the time
    AWAY = "away"  # can't be reached in the first hour
    GONE = "gone"  # answers 410 to everything
    DEAD = "dead"  # can't be reached


HOPELESS: Final = frozenset({Receiver.GONE, Receiver.DEAD})


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that a receiver has got."""

    at_s: float
    id: str
    url: str
    body: bytes
    is_signed: bool

    @property
    def told(self) -> Mapping[str, object]:
        told: Mapping[str, object] = json.loads(self.body)
        return told


def address_of(kind: Receiver, path: str) -> str:
    return f"https://{kind}.example{path}"


def kind_of(url: str) -> Receiver:
    return Receiver((urlsplit(url).hostname or "").partition(".")[0])


class Receivers:
    """All receivers of one run."""

    def __init__(self, loop: SimulatedLoop, draws: Random, latency_s_max: float) -> None:
        self.loop = loop
        self.draws = draws
        self.latency_s_max = latency_s_max
        self.deliveries: list[Delivery] = []
        self.fault_counts: dict[str, int] = {}

    def open(self, owner: Owner) -> "SimulatedWebhooks":
        return SimulatedWebhooks(self, owner)

    def take(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        is_signed = headers["webhook-signature"] == _signature(headers, body)
        self.deliveries.append(
            Delivery(self.loop.time(), headers["webhook-id"], url, body, is_signed)
        )

    def note(self, fault: str) -> None:
        self.fault_counts[fault] = self.fault_counts.get(fault, 0) + 1


class SimulatedWebhooks:
    """The Webhooks port of one process."""

    def __init__(self, receivers: Receivers, owner: Owner) -> None:
        self._receivers = receivers
        self._owner = owner

    def find_flaw(self, url: str) -> DeliveryError | None:
        kind_of(url)  # it is a name: where that leads is seen when it is called
        return None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> DeliveryResult:
        receivers = self._receivers
        await self._pass_time(receivers.draws.uniform(0, receivers.latency_s_max))
        kind = kind_of(url)
        is_away = kind is Receiver.AWAY and receivers.loop.time() < _AWAY_S
        if kind is Receiver.DEAD or is_away:
            receivers.note(f"receiver {kind}")
            return DeliveryResult(None, DeliveryError.CONNECT_FAILED)
        if kind is Receiver.GONE:
            receivers.note(f"receiver {kind}")
            return DeliveryResult(410, DeliveryError.GONE)
        is_struck = receivers.draws.random() < (2 / 3 if kind is Receiver.SLOW else 1 / 2)
        if kind is Receiver.FLAKY and is_struck:
            receivers.note(f"receiver {kind}")
            return DeliveryResult(500, DeliveryError.REFUSED)
        receivers.take(url, body, headers)
        if kind is Receiver.SLOW and is_struck:
            receivers.note(f"receiver {kind}")
            await self._pass_time(_TIMEOUT_S)
            return DeliveryResult(None, DeliveryError.TIMED_OUT)
        if kind is Receiver.FORGETFUL and is_struck:
            receivers.note(f"receiver {kind}")
            return DeliveryResult(None, DeliveryError.CONNECTION_LOST)
        await self._pass_time(receivers.draws.uniform(0, receivers.latency_s_max))
        return DeliveryResult(204)

    async def _pass_time(self, duration_s: float) -> None:
        await self._receivers.loop.pass_time(duration_s, self._owner)


def _signature(headers: Mapping[str, str], body: bytes) -> str:
    """Return the signature that the Standard Webhooks specification asks for."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(base64.b64decode(SECRET), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
