"""A bug to plant: what is changed, in one file, and which tests must notice."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """`old`, which the file has exactly once, becomes `new`."""

    old: str
    new: str

    def apply(self, text: str) -> str:
        """Return the text with the edit. ValueError if it does not apply."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"found {count} times: {self.old!r}")
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Bug:
    """What goes wrong, in words, and how. Each of `tests` must fail with it."""

    name: str
    file: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]

    def plant(self, text: str) -> str:
        """Return the file's text with the bug. ValueError if an edit does not apply."""
        for edit in self.edits:
            text = edit.apply(text)
        return text
