"""Incoming callbacks: an unguessable path for each attempt, and a body of which one claim is read.

Nobody signs these. The path proves only that the sender knows an address which we gave to one
upstream for one attempt; what it claims is a hint, and a read of the task decides. So a forged, a
replayed or a late callback costs one read at most, and moves nothing by itself.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.tasks import OBSERVED, Task, TaskState, can_advance, event_of
from gateway.ids import is_upstream_task_id

PATH_PREFIX: Final = "/callbacks/"
BODY_BYTES_MAX: Final = 64 * 1024

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_TOKEN_CHARS: Final = 32
_TOKEN: Final = re.compile(r"[a-z2-7]{32}\Z")


class Hint(StrEnum):
    """What a callback tells of an attempt, by what we know of its task."""

    EARLY = "early"  # the answer to the submission is still on its way, and brings the id
    CLAIM = "claim"  # the outcome is unknown, and here is an id to ask for
    NEWS = "news"  # the task may have moved: look at it now
    NO_NEWS = "no_news"  # what we know already; but callbacks do come
    LATE = "late"  # the task has ended


def make_token(entropy: Callable[[int], bytes]) -> str:
    """Return 32 base32 characters: 160 bits that nobody guesses."""
    return "".join(_ALPHABET[byte & 31] for byte in entropy(_TOKEN_CHARS))


def is_token(text: str) -> bool:
    """Whether `text` has the shape of a token, which is all that is known without the store."""
    return _TOKEN.match(text) is not None


def hash_token(token: str) -> str:
    """Return what is stored of a token: whoever reads the store can't forge a callback."""
    return hashlib.sha256(token.encode()).hexdigest()


def callback_path(token: str) -> str:
    """Return the path that goes, behind the public address of this gateway, into a submit."""
    return PATH_PREFIX + token


@dataclass(frozen=True, slots=True)
class Claim:
    """What a callback says, which may be a lie."""

    upstream_task_id: str | None = None
    """If there is one that can be put into a path."""
    status: str = ""


def read_claim(body: bytes) -> Claim:
    """Return what a callback claims. Nothing else in it is looked at.

    The body is hostile: what is not a JSON object, or larger than 64 KiB, claims nothing.
    """
    if len(body) > BODY_BYTES_MAX:
        return NO_CLAIM
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return NO_CLAIM
    if not isinstance(value, dict):
        return NO_CLAIM
    claimed_id, status = value.get("id"), value.get("status")
    is_id = isinstance(claimed_id, str) and is_upstream_task_id(claimed_id)
    return Claim(claimed_id if is_id else None, status if isinstance(status, str) else "")


NO_CLAIM: Final = Claim()


def judge(task: Task, claim: Claim) -> Hint:
    """Return what a callback for `task` is good for: never more than a look at the upstream."""
    if task.state is TaskState.RESERVED:
        return Hint.EARLY
    if task.state is TaskState.UNKNOWN:
        return Hint.NO_NEWS if claim.upstream_task_id is None else Hint.CLAIM
    if task.state not in OBSERVED:
        return Hint.LATE
    event = event_of(claim.status)
    is_news = event is None or can_advance(task.state, event)
    return Hint.NEWS if is_news else Hint.NO_NEWS
