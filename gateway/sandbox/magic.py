"""Magic prompts: `sandbox:NAME` or `sandbox:NAME=VALUE` in a text item forces an outcome."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.sandbox.errors import VendorError, invalid, is_known_code

_TOKEN: Final = re.compile(
    r"(?<![A-Za-z0-9])sandbox:([a-z0-9-]+)(?:=([A-Za-z0-9._-]*[A-Za-z0-9]))?"
)
SECONDS_MAX: Final = 1_000_000.0
SLOW_400_S: Final = 45.0

REFUSALS: Final = {
    "reject-400": "InvalidParameter",
    "input-moderation": "InputTextSensitiveContentDetected",
    "429": "ServerOverloaded",
    "500": "InternalServiceError",
    "overdue": "AccountOverdueError",
    "not-open": "ModelNotOpen",
}
"""Names that refuse the create with a fixed code; `error=CODE` takes any."""

_FLAGS: Final = frozenset({"no-usage", "no-video", "no-id", "vanish", "plane-error", "moderation"})
_TIMES: Final = frozenset({"slow", "queued", "run"})
_VALUED: Final = frozenset({"error", "fail", "expire", "slow-400", "tokens", "status"})
NAMES: Final = frozenset(REFUSALS) | _FLAGS | _TIMES | _VALUED
"""Every name that means something."""


@dataclass(frozen=True, slots=True)
class Magic:
    """What the prompt forces. Seconds of `slow` are real, of `queued`, `run`, `expire` the task's.

    `refusal` is the code of an immediate error; `failure` of a task that fails; `word` a status
    shown instead of `running`; `tokens` the usage reported.
    """

    refusal: str = ""
    is_plane_error: bool = False
    slow_s: float = 0.0
    slow_400_s: float | None = None
    failure: str = ""
    is_expiring: bool = False
    expire_s: float | None = None
    queued_s: float | None = None
    run_s: float | None = None
    tokens: int | None = None
    word: str = ""
    has_usage: bool = True
    has_video: bool = True
    has_id: bool = True
    is_vanishing: bool = False


def read_magic(texts: Iterable[str]) -> Magic:
    """Return what the texts force.

    Raises:
        VendorError: a token is unknown or its value is not what it takes, so that a slip of the
            pen is seen at once rather than taken for an ordinary prompt.
    """
    found: dict[str, object] = {}
    for text in texts:
        for match in _TOKEN.finditer(text):
            found |= _read_token(match[1], match[2])
    return Magic(**found)  # type: ignore[arg-type]  # the names come from _read_token alone


def _read_token(name: str, value: str | None) -> dict[str, object]:
    if name in REFUSALS:
        return {"refusal": REFUSALS[name]}
    if name in _FLAGS:
        return _read_flag(name)
    if name in _TIMES:
        return {f"{name}_s": _seconds(name, value)}
    return _read_valued(name, value)


def _read_valued(name: str, value: str | None) -> dict[str, object]:
    found: dict[str, object] = {}
    match name:
        case "error":
            found["refusal"] = _code(name, value)
        case "fail":
            found["failure"] = _code(name, value or "InternalServiceError")
        case "expire":
            seconds = None if value is None else _seconds(name, value)
            found |= {"is_expiring": True, "expire_s": seconds}
        case "slow-400":
            found["slow_400_s"] = SLOW_400_S if value is None else _seconds(name, value)
        case "tokens" if value is not None and value.isascii() and value.isdecimal():
            found["tokens"] = int(value[:15])
        case "status" if value:
            found["word"] = value[:40]
        case _:
            raise _unknown(name)
    return found


def _read_flag(name: str) -> dict[str, object]:
    match name:
        case "moderation":
            return {"failure": "OutputVideoSensitiveContentDetected"}
        case "plane-error":
            return {"refusal": "AccessDenied", "is_plane_error": True}
        case "vanish":
            return {"is_vanishing": True}
        case _:
            return {name.replace("no-", "has_"): False}


def _seconds(name: str, value: str | None) -> float:
    try:
        seconds = float(value or "")
    except ValueError:
        raise _unknown(name) from None
    if not 0 <= seconds <= SECONDS_MAX:
        raise _unknown(name)
    return seconds


def _code(name: str, value: str | None) -> str:
    if not value or not is_known_code(value):
        raise _unknown(name)
    return value


def _unknown(name: str) -> VendorError:
    return invalid(
        "content", f"sandbox:{name} is not a command of the sandbox, or its value is wrong"
    )
