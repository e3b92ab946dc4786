"""What an upstream answered, and the one way its bytes become values, and values bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from gateway.ids import is_request_id

RETRY_AFTER_S_MAX: Final = 3600


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: its status, its bounded body, and the few headers that mean something."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Lower-case names, only those that the client keeps."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def parse_json(body: bytes) -> object:
    """Return the JSON value in `body`, which is hostile.

    Refused with ValueError: NaN, infinities, lone surrogates, other encodings than UTF-8, nesting
    beyond 1,024. The last of two equal keys wins. An integer beyond 64 bits becomes a float.
    """
    value: object = orjson.loads(body)
    return value


def read_retry_after(answer: Answer) -> int | None:
    """Return the answer's `Retry-After` in seconds, an hour at most; dates are not understood."""
    text = answer.headers.get("retry-after", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        return None
    return min(int(text), RETRY_AFTER_S_MAX)


def read_request_id(answer: Answer) -> str | None:
    """Return the upstream's id of the request, from the answer's headers."""
    text = answer.headers.get("x-request-id", "")
    return text if is_request_id(text) else None


def encode_json(value: Mapping[str, object]) -> bytes:
    """Return `value` as UTF-8 JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits, in a field that we pass on unchanged
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
