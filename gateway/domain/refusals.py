"""How refusals are worded: as the vendor does, with the value given and what is allowed."""

from collections.abc import Iterable
from typing import Final

from gateway.errors import InvalidRequest, MissingParameter

SHOWN_CHARS_MAX: Final = 64


def show(value: object) -> str:
    """Return `value` as an error may repeat it: printable, short; of containers only the kind."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            text = value
        case int() | float():
            text = str(value)
        case list() | tuple():
            return "an array"
        case _:
            return "an object"
    cleaned = "".join(letter for letter in text[:SHOWN_CHARS_MAX] if letter.isprintable())
    if len(text) > SHOWN_CHARS_MAX:
        cleaned += "..."
    return cleaned or "an empty text"


def describe(value: object) -> str:
    """Return what kind of value it is, for what must not be repeated: addresses and prompts."""
    match value:
        case None | bool() | list() | tuple():
            return show(value)
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case _:
            return "an object"


def join(words: Iterable[str]) -> str:
    return ", ".join(words)


def refuse(param: str, problem: str, *, code: str = "") -> InvalidRequest:
    """Return the error for a parameter whose value can't be taken; `problem` ends without a dot."""
    message = f"the parameter {param} specified in the request is not valid: {problem}."
    return InvalidRequest(message, param=param, code=code)


def refuse_missing(param: str, hint: str = "") -> MissingParameter:
    message = f"the request is missing the required parameter {param}"
    return MissingParameter(f"{message}: {hint}." if hint else f"{message}.", param=param)


def refuse_unknown(param: str, meant: str = "") -> InvalidRequest:
    """Return the error for a field that nobody knows, and that might be `meant` for another."""
    message = f"the parameter {param} is unknown to this gateway"
    message = f"{message}, did you mean {meant}?" if meant else f"{message}."
    return InvalidRequest(message, param=param)
