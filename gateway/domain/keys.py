"""Keys, the secrets that clients present to us. Keys come in, credentials go out.

A key is `sg_live_` or `sg_test_`, then 12 public, 43 secret and 6 check characters, all base62. The
check is the CRC32 of everything before it, so that a typo or a scanner's false alarm is known
without a look-up. Only an HMAC of the whole key under a pepper is stored: with 256 bits of entropy
no slow hash is needed.
"""

import hmac
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE: Final = re.compile(r"sg_(?:live|test)_([0-9A-Za-z]{12})[0-9A-Za-z]{43}([0-9A-Za-z]{6})\Z")
_PUBLIC_LENGTH: Final = 12
_SECRET_LENGTH: Final = 43
_CHECK_LENGTH: Final = 6
_DISTINCT_CHARS_MIN: Final = 10
PEPPER_BYTES_MIN: Final = 16


class KeyKind(StrEnum):
    """What a key's prefix says of it. Both are let in alike; scanners tell them apart."""

    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Key:
    """A key's record. `id` is its public part; the secret is not here, only its digest."""

    id: str
    project_id: str
    name: str
    digest: bytes
    created_at_ms: int
    kind: KeyKind = KeyKind.LIVE
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    models: tuple[str, ...] = ()
    """The models this key may ask for; empty means every configured one."""

    def is_valid(self, now_ms: int) -> bool:
        """Whether the key is neither revoked nor expired."""
        if self.revoked_at_ms is not None:  # whatever the clock says: a revocation is for good
            return False
        return self.expires_at_ms is None or now_ms < self.expires_at_ms


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: an authenticated key and the project it belongs to."""

    project_id: str
    key_id: str
    models: tuple[str, ...] = ()

    def may_use(self, model: str) -> bool:
        return not self.models or model in self.models


def generate(entropy: Callable[[int], bytes], *, kind: KeyKind = KeyKind.LIVE) -> str:
    """Return a new key. It is shown once and never stored."""
    body = f"sg_{kind}_" + _base62(entropy, _PUBLIC_LENGTH + _SECRET_LENGTH)
    return body + _check(body)


def parse(text: str) -> str | None:
    """Return the public id of a well-formed key with a right check, else None."""
    match = _SHAPE.match(text)
    if match is None or _check(text[:-_CHECK_LENGTH]) != match[2]:
        return None
    return match[1]


def find_flaw(key: str) -> str | None:
    """Return why a key given from outside can't be installed, without a character of it."""
    if parse(key) is None:
        return "is not a key: sg_live_ or sg_test_ and 61 base62 characters, the last 6 a check"
    if len(set(key[-_SECRET_LENGTH - _CHECK_LENGTH : -_CHECK_LENGTH])) < _DISTINCT_CHARS_MIN:
        return "is an example or has next to no entropy"
    return None


def kind_of(key: str) -> KeyKind:
    """Return the kind of a well-formed key."""
    return KeyKind(key.split("_")[1])


def digest(pepper: bytes, key: str) -> bytes:
    """Return what is stored of a key: HMAC-SHA256 of all of it under the pepper."""
    return hmac.digest(pepper, key.encode(), "sha256")


def matches(pepper: bytes, key: str, stored: bytes) -> bool:
    """Whether `key` is the one whose digest is stored; in constant time."""
    return hmac.compare_digest(digest(pepper, key), stored)


def _check(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_LENGTH):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def _base62(entropy: Callable[[int], bytes], length: int) -> str:
    """Return `length` unbiased characters: bytes of 248 and more are thrown away."""
    chars: list[str] = []
    while len(chars) < length:
        chars += [_BASE62[byte % 62] for byte in entropy(length) if byte < 248]
    return "".join(chars[:length])
