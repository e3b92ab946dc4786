"""Text commands: the second way by which a client sets parameters.

A text may hold commands, `--resolution 480p` or `--rs 480p`, wherever they stand. They are lifted
out of it, so that nothing that changes price or limits reaches the upstream inside a prompt.

What counts as a command, in this order:

- The introducer is a run of two or more dashes of any kind, then white space or none: the
  published page prints `-- camerafixed true`, and editors turn `--` into other dashes.
- A known name, long or short, in any case, as a whole word: `--dur5` is none.
- White space or `=`, then the value: everything up to the next white space or introducer. Quotes
  are not special. A command may lack its value: that is a refusal, worded by whoever knows what is
  allowed.

A single long dash, where a word begins, may be a typist's. It is prose, unless what follows begins
like a value of that very command.

Every pattern looks at each character a fixed number of times: time is linear in the text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.refusals import refuse

_NAMES: Final[Mapping[str, str]] = {
    "resolution": "resolution",
    "rs": "resolution",
    "ratio": "ratio",
    "rt": "ratio",
    "duration": "duration",
    "dur": "duration",
    "frames": "frames",
    "framespersecond": "framespersecond",
    "framepersecond": "framespersecond",  # as the vendor's page once printed it
    "fps": "framespersecond",
    "seed": "seed",
    "camerafixed": "camera_fixed",
    "cf": "camera_fixed",
    "watermark": "watermark",
    "wm": "watermark",
}
_WHOLE: Final = re.compile(r"[+-]?[0-9]")
_FLAG: Final = re.compile(r"true|false", re.IGNORECASE)
_BEGINS_LIKE_A_VALUE: Final[Mapping[str, re.Pattern[str]]] = {
    "resolution": re.compile(r"[0-9]+[pk]", re.IGNORECASE),
    "ratio": re.compile(r"[0-9]+[:\uff1a][0-9]|adaptive|keep_ratio", re.IGNORECASE),
    "duration": _WHOLE,
    "frames": _WHOLE,
    "framespersecond": _WHOLE,
    "seed": _WHOLE,
    "camera_fixed": _FLAG,
    "watermark": _FLAG,
}

_LONG: Final = r"\u2013-\u2015\u2e3a\u2e3b\ufe58"
_DASH: Final = r"\-\u2010-\u2015\u2212\u2e3a\u2e3b\ufe58\ufe63\uff0d"
# Characters without width count as white space: they can't hide a command.
_SPACE: Final = r"\s\u200b-\u200d\u2060\ufeff"
# Each alternative looks back at what the first dash stood behind, so that a run is read once.
_COMMAND: Final = re.compile(
    rf"""
    [{_DASH}]
    (?: (?<![{_DASH}]{{2}}) (?P<run>[{_DASH}]++) | (?<=[{_LONG}])(?<![^{_SPACE}].) )
    [{_SPACE}]*+
    (?P<name>(?ai:{"|".join(_NAMES)}))
    (?= [{_SPACE}=] | [{_DASH}]{{2}} | \Z )
    (?: [{_SPACE}]*+ = )?
    [{_SPACE}]*+
    (?P<value>
      (?: [{_DASH}](?=[0-9]) )?+
      (?: [^{_SPACE}{_DASH}]++ | (?![{_DASH}]{{2}}|[{_LONG}])[{_DASH}] )*+
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_LINE_BREAK: Final = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_LEADING_DASH: Final = re.compile(rf"[{_DASH}]")
_PASSES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Command:
    """A parameter set inside a text. `value` is as written, empty if missing."""

    parameter: str
    value: str = field(repr=False)
    spelled: str
    """`--` and the name that the client used, in lower case."""


@dataclass(frozen=True, slots=True)
class LiftedText:
    """A text without its commands, and these in the order of their appearance."""

    prompt: str = field(repr=False)
    commands: tuple[Command, ...]


def lift_commands(text: str) -> LiftedText:
    """Take every known command out of `text`; a text without any is returned as it is.

    Lifting again finds nothing: where taking a command out joins its neighbours into another one,
    that is lifted, too. Raises InvalidRequest if this goes deeper than any honest text does.
    """
    commands: list[Command] = []
    for _ in range(_PASSES_MAX):
        prompt, found = _lift_once(text)
        if not found:
            return LiftedText(prompt, tuple(commands))
        commands += found
        text = prompt
    raise refuse("content", "text commands are nested in each other")


def find_spread_command(prompts: Sequence[str]) -> Command | None:
    """Return a command that appears where `prompts`, none of which holds one, are read as one text.

    Upstreams join texts with nothing, a space or a line break between; the last two come to the
    same, as a command takes any white space.
    """
    for separator in ("", " "):
        _, commands = _lift_once(separator.join(prompts))
        if commands:
            return commands[0]
    return None


def _lift_once(text: str) -> tuple[str, list[Command]]:
    commands: list[Command] = []
    parts: list[str] = []
    rest_starts = 0
    for match in _COMMAND.finditer(text):
        name, value = match["name"].lower(), match["value"]
        parameter = _NAMES[name]
        if _LEADING_DASH.match(value):
            value = f"-{value[1:]}"
        if match["run"] is None and not _BEGINS_LIKE_A_VALUE[parameter].match(value):
            continue
        commands.append(Command(parameter, value, f"--{name}"))
        parts.append(text[rest_starts : match.start()])
        rest_starts = match.end()
    if not commands:
        return text, commands
    return _join([*parts, text[rest_starts:]]), commands


def _join(parts: list[str]) -> str:
    """Join what stood around commands: by a line break where there was one, else by a space."""
    pieces: list[str] = []
    breaks = False
    for part in parts:
        body = part.strip()
        if not body:
            breaks = breaks or _LINE_BREAK.search(part) is not None
            continue
        lead, _, trail = part.partition(body)
        if pieces:
            pieces.append("\n" if breaks or _LINE_BREAK.search(lead) else " ")
        pieces.append(body)
        breaks = _LINE_BREAK.search(trail) is not None
    return "".join(pieces)
