"""What the programs under test emit, kept in one folder and searched for what must not be there."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PROMPT_MARK: Final = "A paper boat drifts"
"""Begins every prompt that the tests submit."""
QUERY_MARK: Final = "harbour-7"
"""In the query of every media URL that the tests submit."""
PUBLIC_PROMPT: Final = "Paper boats drift"
"""Begins the prompt of README.md and of the start page."""
_MARKS: Final = (PROMPT_MARK, QUERY_MARK, PUBLIC_PROMPT)
STORE_SUFFIX: Final = ".db"
_SECRET_PART: Final = slice(len("sg_test_") + 12, -6)


@dataclass(slots=True)
class Captured:
    """Logs, metrics pages and stores of one test session.

    Secrets may be in none of them. Prompts and URL queries may be in a store, which keeps requests
    for a week, and nowhere else.
    """

    folder: Path
    secrets: set[str] = field(default_factory=set, repr=False)
    file_count: int = 0

    def new_path(self, name: str) -> Path:
        """Return the path of a file that is not there yet."""
        self.file_count += 1
        return self.folder / f"{self.file_count:03}-{name}"

    def keep(self, name: str, text: str) -> None:
        self.new_path(name).write_text(text)

    def keep_store(self, data_dir: Path) -> None:
        """Copy the SQLite files of a data folder, its journal included."""
        for path in sorted(data_dir.glob("gateway.db*")):
            shutil.copyfile(path, self.new_path(f"{path.name}{STORE_SUFFIX}"))

    def add_key(self, key: str) -> None:
        """Take note of a key: its public part may be shown, its secret part may not."""
        self.secrets.add(key[_SECRET_PART])

    def find_leaks(self) -> Iterator[str]:
        """Yield `<file>: <what>` for each file that holds what it must not."""
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            if any(secret.encode() in content for secret in self.secrets):
                yield f"{path.name}: a key or credential"
            if path.suffix != STORE_SUFFIX:
                for mark in _MARKS:
                    if mark.encode() in content:
                        yield f"{path.name}: {mark!r}"
