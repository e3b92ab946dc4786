"""Every id the gateway makes. Shapes are public, contents are opaque."""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

# Base32 whose byte order is its digit order, so that ids sort by time.
_BASE32: Final = "234567abcdefghijklmnopqrstuvwxyz"
_TASK_ID: Final = re.compile(r"cgt-[0-9]{14}-[a-z2-7]{20}\Z")
_UPSTREAM_TASK_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,199}\Z")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}\Z")

Entropy = Callable[[int], bytes]
"""n -> n unpredictable bytes; `secrets.token_bytes` but in tests."""


class IdMaker:
    """Makes ids from a source of entropy."""

    def __init__(self, entropy: Entropy = secrets.token_bytes) -> None:
        self._entropy = entropy

    def task_id(self, now_ms: int) -> str:
        """Return `cgt-<UTC stamp>-<20 base32 characters>`: the contract's outward shape, 100 bits.

        The vendor's own ids carry 5 characters, so the two can't clash.
        """
        stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%d%H%M%S")
        return f"cgt-{stamp}-{self._base32(20)}"

    def new(self, prefix: str, now_ms: int) -> str:
        """Return `<prefix>_<26 base32 characters>` whose order is the order of creation."""
        stamp = "".join(_BASE32[(now_ms >> shift) & 31] for shift in range(45, -1, -5))
        return f"{prefix}_{stamp}{self._base32(16)}"

    def request_id(self) -> str:
        return self._entropy(16).hex()

    def _base32(self, length: int) -> str:
        return "".join(_BASE32[byte & 31] for byte in self._entropy(length))


def is_task_id(text: str) -> bool:
    """Whether `text` has the shape of an id minted here (or of an imported vendor id)."""
    return _TASK_ID.match(text) is not None


def is_upstream_task_id(text: str) -> bool:
    """Whether `text` may be put into an upstream's path: no slash, no dot-dot, no percent."""
    return _UPSTREAM_TASK_ID.match(text) is not None and ".." not in text


def is_request_id(text: str) -> bool:
    """Whether a client's `X-Request-Id` is at most 128 safe characters."""
    return _REQUEST_ID.match(text) is not None
