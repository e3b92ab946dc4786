"""Reading parsed YAML strictly: the data files of models and of prices."""

from collections.abc import Callable, Mapping
from typing import TypeVar

_T = TypeVar("_T")


class DataError(ValueError):
    """The data is wrong at `path`, such as `families.seedance-2-0.duration.min_s`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class DataSection:
    """One mapping of the data, read key by key; `close` refuses the keys that nobody asked for."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            raise DataError(path or "the document", "must be a mapping")
        for key in data:
            if not isinstance(key, str):
                raise DataError(f"{path}.{key}", "a key must be text: put it in quotes")
        self.path = path
        self._data = data
        self._unread = set(data)

    def refuse(self, key: str, problem: str) -> DataError:
        return DataError(self.join(key), problem)

    def join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def read(self, key: str) -> object:
        self._unread.discard(key)
        return self._data.get(key)

    def close(self) -> None:
        for key in sorted(self._unread):
            raise self.refuse(key, "unknown key")

    def names(self) -> list[str]:
        return list(self._data)

    def _typed(self, key: str, kind: type[_T], noun: str, default: _T | None) -> _T:
        value = self.read(key)
        if value is None:
            if default is None:
                raise self.refuse(key, "is missing")
            return default
        # In Python a boolean is an int; in the data it is not.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.refuse(key, f"must be {noun}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._typed(key, str, "text (a ratio needs quotes)", default)

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        number = self._typed(key, int, "a whole number", default)
        if number < least:
            raise self.refuse(key, f"must be at least {least}")
        return number

    def flag(self, key: str) -> bool:
        return self._typed(key, bool, "true or false", default=False)

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        return self._items(key, str, "a list of texts (a ratio needs quotes)", default)

    def wholes(self, key: str) -> tuple[int, ...]:
        return self._items(key, int, "a list of whole numbers", ())

    def _items(
        self, key: str, kind: type[_T], noun: str, default: tuple[_T, ...] | None
    ) -> tuple[_T, ...]:
        given = self.read(key)
        if given is None and default is not None:
            return default
        if not isinstance(given, list):
            raise self.refuse(key, f"must be {noun}")
        items = tuple(item for item in given if type(item) is kind)
        if len(items) != len(given):
            raise self.refuse(key, f"must be {noun}")
        return items

    def words(self, key: str, known: frozenset[str]) -> frozenset[str]:
        words = frozenset(self.texts(key, ()))
        for word in sorted(words - known):
            raise self.refuse(key, f"{word} is unknown; known are {', '.join(sorted(known))}")
        return words

    def section(self, key: str) -> "DataSection":
        return DataSection(self.read(key), self.join(key))

    def optional(self, key: str, build: Callable[["DataSection"], _T]) -> _T | None:
        return None if self.read(key) is None else build(self.section(key))
