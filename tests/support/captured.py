"""What the programs under test emit, kept in one folder and searched for what must not be there."""

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

PROMPT_MARK: Final = "A paper boat drifts"
"""Begins every prompt that the tests submit."""
QUERY_MARK: Final = "harbour-7"
"""In the query of every media URL that the tests submit."""
PUBLIC_PROMPT: Final = "Paper boats drift"
"""Begins the prompt of README.md and of the start page."""
_MARKS: Final = (PROMPT_MARK, QUERY_MARK, PUBLIC_PROMPT)
STORE_SUFFIX: Final = ".db"
_SECRET_PART: Final = slice(len("sg_test_") + 12, -6)
_LONG_WORD: Final = re.compile(rb"[\w+/=%.~-]{16,}")
"""What every form of a secret is, or is a part of."""
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


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

    def add_secret(self, secret: str) -> None:
        """Take note of a credential, a pepper and the like, of 16 letters and digits or more."""
        assert _LONG_WORD.fullmatch(secret.encode())
        self.secrets.add(secret)

    def find_leaks(self) -> Iterator[str]:
        """Yield `<file>: <what>` for each file that holds what it must not, in whatever form."""
        secrets = [form for secret in self.secrets for form in encoded_forms(secret)]
        marks = [(mark, form) for mark in _MARKS for form in encoded_forms(mark)]
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            # A long log has few words that are not of its own vocabulary.
            words = b"\n".join(set(_LONG_WORD.findall(content)))
            if any(form in words for form in secrets):
                yield f"{path.name}: a key or credential"
            if path.suffix != STORE_SUFFIX:
                for mark in dict.fromkeys(mark for mark, form in marks if form in content):
                    yield f"{path.name}: {mark!r}"


def encoded_forms(text: str) -> frozenset[bytes]:
    """Return `text` as other text may hold it: plain, backwards, hexadecimal, in a URL, in base64.

    Base64 shows it in three ways, by its place among the bytes that are encoded with it; what
    depends on its neighbours is left out.
    """
    plain = text.encode()
    forms = {plain, plain[::-1], quote(text, safe="").encode(), quote_plus(text).encode()}
    forms |= {plain.hex().encode(), plain.hex().upper().encode()}
    for place in range(3):
        encoded = base64.b64encode(bytes(place) + plain)
        known = encoded.rstrip(b"=")[-(-place * 8 // 6) :]
        if encoded.endswith(b"="):
            known = known[:-1]
        forms |= {known, known.translate(_URL_SAFE)}
    return frozenset(forms)
