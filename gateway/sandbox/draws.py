"""Everything random in the sandbox: drawn from (seed, creation ordinal), so that a run repeats."""

import hashlib
from typing import Final

_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_SUFFIX_LENGTH: Final = 5
_SUFFIX_COUNT: Final = len(_ALPHABET) ** _SUFFIX_LENGTH


class Draws:
    """Named draws for the task with one creation ordinal."""

    def __init__(self, seed: int, ordinal: int) -> None:
        self._seed = seed
        self._ordinal = ordinal

    def integer(self, name: str, lowest: int, highest: int) -> int:
        """Return a number from `lowest` to `highest`, both included."""
        text = f"{self._seed}:{self._ordinal}:{name}"
        return lowest + _number(text) % (highest - lowest + 1)

    def id_suffix(self) -> str:
        """Return five lower-case alphanumerics that no other ordinal gets.

        The multiplier is odd and no multiple of 3, hence prime to 36**5: the map is one to one,
        where a plain hash would give two tasks of one second the same id now and then.
        """
        multiplier = _number(f"{self._seed}:suffix") // 6 * 6 + 1
        value = (self._ordinal * multiplier + self._seed) % _SUFFIX_COUNT
        digits = []
        for _ in range(_SUFFIX_LENGTH):
            value, digit = divmod(value, len(_ALPHABET))
            digits.append(_ALPHABET[digit])
        return "".join(digits)


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text, hexadecimal; lone surrogates are hashed as they came."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def pick_by_text(text: str, options: tuple[str, ...]) -> str:
    """Return the same option for the same text, always."""
    return options[_number(text) % len(options)]


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
