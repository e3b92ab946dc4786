"""Who acts: the name under which commands are on record, in the audit and in the ledger."""

import os
import pwd
from collections.abc import Mapping
from typing import Final

import typer

ACTOR_VARIABLE: Final = "GATEWAY_ACTOR"
NAME_CHARS_MAX: Final = 64
_PREFIX: Final = "cli:"


def parse_actor(text: str) -> str:
    """Return a name that is given to act under. Raises typer.BadParameter."""
    if not _is_name(text):
        raise typer.BadParameter(
            f"must be 1 to {NAME_CHARS_MAX} printable characters, none of them a space"
        )
    return text


def find_actor(given: str | None, environ: Mapping[str, str]) -> str:
    """Return who acts: the name given, else the user of the operating system.

    Of `sudo` that is who called it. A user whom the system has no fit name of has his number.
    """
    return _PREFIX + (given or _find_user(environ))


def _find_user(environ: Mapping[str, str]) -> str:
    caller = environ.get("SUDO_USER", "")
    if _is_name(caller):
        return caller
    user_id = os.getuid()
    try:
        name = pwd.getpwuid(user_id).pw_name
    except KeyError:  # as in a container that runs as any number
        name = ""
    return name if _is_name(name) else f"uid-{user_id}"


def _is_name(text: str) -> bool:
    # A name in a sentence must not look like more of the sentence.
    return 0 < len(text) <= NAME_CHARS_MAX and text.isprintable() and " " not in text
