"""Text commands (`--rs 480p`) at their weakest: found anywhere, a wrong value does no harm."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "resolution": "resolution",
        "rs": "resolution",
        "ratio": "ratio",
        "rt": "ratio",
        "duration": "duration",
        "dur": "duration",
        "frames": "frames",
        "seed": "seed",
        "camerafixed": "camera_fixed",
        "cf": "camera_fixed",
        "watermark": "watermark",
        "wm": "watermark",
        "framespersecond": "framespersecond",
        "framepersecond": "framespersecond",
        "fps": "framespersecond",
    }
)
"""Command -> body field."""

_COMMAND: Final = re.compile(r"(?<!\S)-- ?([a-z]+)[ \t\r\n]+(\S+)")
_INTEGERS: Final = frozenset({"duration", "frames", "seed", "framespersecond"})
_BOOLEANS: Final = frozenset({"camera_fixed", "watermark"})
_INTEGER: Final = re.compile(r"-?[0-9]{1,12}")


def read_commands(text: str) -> dict[str, object]:
    """Return body field -> value for the commands in a text; the last of a repeat wins.

    A value of the wrong kind stays text, for the field's own check to refuse.
    """
    found: dict[str, object] = {}
    for name, value in _COMMAND.findall(text):
        field = COMMANDS.get(name)
        if field is not None:
            found[field] = _convert(field, value)
    return found


def _convert(field: str, value: str) -> object:
    if field in _INTEGERS and _INTEGER.fullmatch(value):
        return int(value)
    if field in _BOOLEANS and value in {"true", "false"}:
        return value == "true"
    return value
