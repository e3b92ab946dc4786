"""The one way from a request body's bytes to values: strict JSON in bounded memory and time.

`json.loads` does the grammar. What it lets pass, or can't bound, is refused here: a byte order
mark, UTF-16, duplicate names, NaN and infinities, NUL and other control characters, lone
surrogates, deep nesting, floods of small values.

A string of more than 128 KiB can only be a data URI: printable ASCII. Such strings are taken out
of the bytes before the rest is decoded, and put back at the end. So one character outside ASCII in
a prompt doesn't widen a 30 MB image to two or four bytes a character, and no single call into the
interpreter's C code holds every other thread up for long.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Final, NoReturn

from gateway.errors import InvalidRequest

LONG_STRING_BYTES: Final = 128 * 1024
"""A longer string is held to printable ASCII."""
SKELETON_BYTES_MAX: Final = 8 * 1024 * 1024
"""What a body may hold beside its long strings."""

_STEP_CHARS: Final = 1024 * 1024
_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_PRINTABLE_ASCII: Final = re.compile(r"[ -~]*+")
_LONG_STRING_ESCAPE_FORBIDDEN: Final = re.compile(r"\\(?!/|[nrt]|u00[2-7][0-9a-fA-F])")
# A client's own escape of U+0001 is refused like every control character; see `_check_values`.
_PLACEHOLDER: Final = "\x01"


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """What the structure of a body may cost."""

    depth_max: int = 32
    tokens_max: int = 50_000
    """Commas and opening brackets (also those inside strings of ordinary length), and quotes."""
    number_chars_max: int = 64


def parse_json_object(body: bytes, limits: JsonLimits) -> dict[str, object]:
    """Return the JSON object that `body` holds.

    Raises InvalidRequest, which names the problem and never repeats the input but for a short,
    cleaned field name.
    """
    if body.startswith(_BYTE_ORDER_MARKS):
        _refuse("it starts with a byte order mark; plain UTF-8 is allowed")
    if b"\x00" in body:
        _refuse(f"it holds a NUL byte at byte {body.index(0)}; plain UTF-8 is allowed")
    lifted: dict[str, str] = {}
    skeleton = body
    if len(body) > LONG_STRING_BYTES:
        skeleton = _lift_long_strings(body, lifted, limits)
    text = _decode(skeleton, has_positions=not lifted)
    brackets = text.count("[") + text.count("{")
    if text.count(",") + brackets > limits.tokens_max:
        _refuse(f"it holds too many values; {limits.tokens_max} are allowed")
    value = _load(text, limits, has_positions=not lifted)
    if not isinstance(value, dict):
        _refuse("an object is allowed at the top")
    if lifted or "\\" in text or brackets > limits.depth_max:
        _check_values(value, lifted, limits)
    return value


def _refuse(problem: str) -> NoReturn:
    raise InvalidRequest(f"the request body is not valid: {problem}.") from None


def _decode(skeleton: bytes, *, has_positions: bool) -> str:
    try:
        return skeleton.decode()
    except UnicodeDecodeError as error:
        place = f" at byte {error.start}" if has_positions else ""
        _refuse(f"it is not UTF-8{place}")


def _load(text: str, limits: JsonLimits, *, has_positions: bool) -> object:
    number_chars_max = limits.number_chars_max

    def read_int(digits: str) -> int:
        if len(digits) > number_chars_max:
            _refuse(f"a number has too many digits; {number_chars_max} characters are allowed")
        return int(digits)

    def read_float(digits: str) -> float:
        if len(digits) > number_chars_max:
            _refuse(f"a number has too many digits; {number_chars_max} characters are allowed")
        number = float(digits)
        if math.isinf(number):
            _refuse("a number is too large")
        return number

    decoder = json.JSONDecoder(
        object_pairs_hook=_make_object,
        parse_int=read_int,
        parse_float=read_float,
        parse_constant=_refuse_constant,
    )
    try:
        value: object = decoder.decode(text)
    except json.JSONDecodeError as error:
        place = f" at character {error.pos}" if has_positions else ""
        _refuse(f"it is not JSON: {error.msg}{place}")
    except RecursionError:
        _refuse(f"it is nested too deeply; {limits.depth_max} levels are allowed")
    return value


def _make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        _refuse(f"the field {_show(name)} is given twice in one object")
    return members


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON")


def _check_values(root: dict[str, object], lifted: dict[str, str], limits: JsonLimits) -> None:
    """Check depth and characters, and put the lifted strings back in place.

    A client can't forge a placeholder: each is taken once, so its own would leave none for ours.
    One that stands for a field's name is refused with all names that hold such a character.
    """
    stack: list[tuple[dict[str, object] | list[object], int]] = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > limits.depth_max:
            _refuse(f"it is nested too deeply; {limits.depth_max} levels are allowed")
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(key, str) and _FORBIDDEN.search(key):
                _refuse("a field's name is too long or holds a control character")
            if isinstance(item, dict | list):
                stack.append((item, depth + 1))
            elif isinstance(item, str) and _FORBIDDEN.search(item):
                long_string = lifted.pop(item, None)
                if long_string is None:
                    _refuse_characters(key)
                node[key] = long_string  # type: ignore[index]  # the key is this node's


def _refuse_characters(key: object) -> NoReturn:
    where = f"the field {_show(key)}" if isinstance(key, str) else "a string of an array"
    _refuse(f"{where} holds a control character or half a surrogate pair")


def _lift_long_strings(body: bytes, lifted: dict[str, str], limits: JsonLimits) -> bytes:
    """Return `body` with each long string, now in `lifted`, replaced by a placeholder."""
    pieces: list[bytes] = []
    quotes_left = limits.tokens_max
    kept = position = 0
    while (start := body.find(b'"', position)) >= 0:
        end = start
        is_escaped = True
        while is_escaped:
            end = body.find(b'"', end + 1)
            quotes_left -= 1
            if end < 0 or quotes_left < 0:
                _refuse("a string has no end" if end < 0 else "it holds too many strings")
            is_escaped = _count_backslashes(body, start + 1, end) % 2 == 1
        if end - start > LONG_STRING_BYTES:
            pieces.append(b'%b"\\u0001%d"' % (body[kept:start], len(lifted)))
            lifted[f"{_PLACEHOLDER}{len(lifted)}"] = _read_long_string(body, start, end)
            kept = end + 1
        position = end + 1
    if sum(map(len, pieces)) + len(body) - kept > SKELETON_BYTES_MAX:
        _refuse(f"beside its data URIs it holds more than {SKELETON_BYTES_MAX} bytes")
    return b"".join([*pieces, body[kept:]]) if pieces else body


def _count_backslashes(body: bytes, start: int, end: int) -> int:
    """Count the backslashes right before `end`, at a cost in proportion to their number."""
    width = 16
    while True:
        tail = body[max(start, end - width) : end]
        count = len(tail) - len(tail.rstrip(b"\\"))
        if count < len(tail) or count == end - start:
            return count
        width *= 4


def _read_long_string(body: bytes, start: int, end: int) -> str:
    """Return the string between the quotes at `start` and `end`."""
    view = memoryview(body)
    try:
        text = str(view[start + 1 : end], "ascii")
    except UnicodeDecodeError:
        _refuse_long_string()
    for at in range(0, len(text), _STEP_CHARS):
        if not _PRINTABLE_ASCII.fullmatch(text, at, at + _STEP_CHARS):
            _refuse_long_string()
    if "\\" not in text:
        return text
    if _LONG_STRING_ESCAPE_FORBIDDEN.search(text):
        _refuse_long_string()
    del text
    unescaped: str = json.JSONDecoder().decode(str(view[start : end + 1], "ascii"))
    return unescaped


def _refuse_long_string() -> NoReturn:
    _refuse(
        f"a string of more than {LONG_STRING_BYTES} bytes holds other characters than printable "
        "ASCII; only data URIs may be that long"
    )


def _show(name: str) -> str:
    cleaned = "".join(character for character in name[:64] if character.isprintable())
    return f'"{cleaned}"'
