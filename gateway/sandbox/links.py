"""Signed links to the media: valid for 24 hours from the moment the task succeeded."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

LIFETIME_S: Final = 86_400
MEDIA_PATH: Final = "/_sandbox/videos/"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Links:
    """Makes and checks links below `base_url` with the secret of the data folder."""

    base_url: str
    secret: bytes

    def sign(self, name: str, made_ms: int) -> str:
        """Return the URL of a file that was made at a date."""
        date = datetime.fromtimestamp(made_ms / 1000, UTC).strftime(_DATE_FORMAT)
        return (
            f"{self.base_url}{MEDIA_PATH}{name}?X-Tos-Expires={LIFETIME_S}&X-Tos-Date={date}"
            f"&X-Tos-Signature={self._signature(name, date, str(LIFETIME_S))}"
        )

    def is_valid(self, name: str, query: Mapping[str, str], now_ms: int) -> bool:
        """Whether the query is one that was signed for this name and has not expired."""
        date, expires = query.get("X-Tos-Date", ""), query.get("X-Tos-Expires", "")
        expected = self._signature(name, date, expires)
        given = query.get("X-Tos-Signature", "")
        if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
            return False
        made = datetime.strptime(date, _DATE_FORMAT).replace(tzinfo=UTC)
        return now_ms / 1000 < made.timestamp() + int(expires)

    def _signature(self, name: str, date: str, expires: str) -> str:
        text = f"{name}\n{date}\n{expires}".encode("utf-8", "replace")
        return hmac.new(self.secret, text, hashlib.sha256).hexdigest()
