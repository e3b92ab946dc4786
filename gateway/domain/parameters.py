"""The typed fields of a request, and how the value of each is read.

Only the shape is decided here. What a model allows is `gateway/domain/rules.py`, which also words
what is allowed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from gateway.domain.models import ADAPTIVE, DURATION_MAX_S

SAFETY_IDENTIFIER_CHARS_MAX: Final = 64
FRAMES_PER_SECOND: Final = 24
FRAMES_MAX: Final = FRAMES_PER_SECOND * DURATION_MAX_S
KEEP_RATIO: Final = "keep_ratio"

_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}(?:\.0{0,18})?\Z")
_INT32_MAX: Final = 2**31 - 1
_RESOLUTION: Final = re.compile(r"[0-9]{1,4}[pk]\Z")
_RATIO: Final = re.compile(rf"[1-9][0-9]?:[1-9][0-9]?\Z|{ADAPTIVE}\Z|{KEEP_RATIO}\Z")
_WORD: Final = re.compile(r"[a-z0-9_]{1,32}\Z")
_PRINTABLE: Final = re.compile(r"[^\x00-\x1f\x7f]+\Z")


@dataclass(frozen=True, slots=True)
class Parameters:
    """The typed fields that were given; None means not given."""

    resolution: str | None = None
    ratio: str | None = None
    duration: int | None = None
    """Whole seconds; -1 leaves the length to the model."""
    frames: int | None = None
    framespersecond: int | None = None
    seed: int | None = None
    camera_fixed: bool | None = None
    watermark: bool | None = None
    service_tier: str | None = None
    execution_expires_after: int | None = None
    """Seconds from the task's creation."""
    priority: int | None = None
    generate_audio: bool | None = None
    draft: bool | None = None
    return_last_frame: bool | None = None
    tools: tuple[str, ...] | None = None
    """The tools' types."""
    safety_identifier: str | None = None
    output_format: str | None = None
    omni_reference_task_type: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return what was given, under the names and in the form of the body."""
        given: dict[str, object] = {
            name: value for name in PARAMETER_NAMES if (value := getattr(self, name)) is not None
        }
        if self.tools is not None:
            given["tools"] = [{"type": tool} for tool in self.tools]
        return given


PARAMETER_NAMES: Final = tuple(field.name for field in fields(Parameters))


@dataclass(frozen=True, slots=True)
class Reading:
    """How one field's value is read; `read` returns None for a value of another shape."""

    read: Callable[[object], object | None]
    allowed: str


def _read_flag(value: object) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value if isinstance(value, bool) else None


def _whole(least: int, most: int) -> Reading:
    def read(value: object) -> int | None:
        number: int | None = None
        if isinstance(value, str) and _WHOLE_NUMBER.match(value):
            number = int(value.partition(".")[0])
        elif (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        ):
            number = int(value)
        return number if number is not None and least <= number <= most else None

    return Reading(read, f"{least} to {most}")


def _word(pattern: re.Pattern[str], allowed: str) -> Reading:
    def read(value: object) -> str | None:
        if not isinstance(value, str):
            return None
        # A full-width colon is what an East Asian keyboard makes of 16:9.
        word = value.lower().replace("\uff1a", ":")
        return word if pattern.match(word) else None

    return Reading(read, allowed)


def _one_of(*words: str) -> Reading:
    def read(value: object) -> str | None:
        return value if isinstance(value, str) and value in words else None

    return Reading(read, ", ".join(words))


def _read_identifier(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > SAFETY_IDENTIFIER_CHARS_MAX:
        return None
    return value if _PRINTABLE.match(value) else None


def _read_tools(value: object) -> tuple[str, ...] | None:
    # Each tool call has a price, so no other tool and no option of one passes unread.
    if not isinstance(value, list) or any(tool != {"type": "web_search"} for tool in value):
        return None
    return ("web_search",) if value else ()


_FLAG: Final = Reading(_read_flag, "true, false")

READINGS: Final[Mapping[str, Reading]] = {
    "resolution": _word(_RESOLUTION, "words such as 480p and 4k"),
    "ratio": _word(_RATIO, "ratios such as 16:9, and adaptive"),
    "duration": Reading(
        _whole(-_INT32_MAX, _INT32_MAX).read, f"whole seconds from 1 to {DURATION_MAX_S}, or -1"
    ),
    "frames": Reading(
        _whole(-_INT32_MAX, _INT32_MAX).read, f"whole numbers from 1 to {FRAMES_MAX}"
    ),
    "framespersecond": Reading(_whole(FRAMES_PER_SECOND, FRAMES_PER_SECOND).read, "24"),
    # Pages differ on the upper end: 2^31-1 or 2^32-1.
    "seed": _whole(-1, 2**32 - 1),
    "camera_fixed": _FLAG,
    "watermark": _FLAG,
    "service_tier": _one_of("default", "flex"),
    "execution_expires_after": _whole(3600, 259_200),
    "priority": _whole(0, 9),
    "generate_audio": _FLAG,
    "draft": _FLAG,
    "return_last_frame": _FLAG,
    "tools": Reading(_read_tools, '[{"type": "web_search"}]'),
    "safety_identifier": Reading(
        _read_identifier, f"1 to {SAFETY_IDENTIFIER_CHARS_MAX} printable characters"
    ),
    "output_format": _word(_WORD, "words such as mp4, mov"),
    "omni_reference_task_type": _word(_WORD, "words such as auto, edit"),
}
