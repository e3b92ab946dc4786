"""The description of the interface, as `/openapi.json` and as a page to read and try at `/docs`.

The page's script and style are packaged, and its policy lets it ask nobody but this server.
"""

from pathlib import Path
from typing import Final

from gateway.errors import NotFound
from gateway.http.exchange import Answer, Exchange

STATIC: Final = Path(__file__).with_name("static")
PAGE: Final = "index.html"
ASSETS: Final = {
    "docs.css": b"text/css; charset=utf-8",
    "docs.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
}
"""What may be asked for under `/docs/`, and its type."""
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = (
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
)
_CACHE: Final = b"public, max-age=3600"


class Docs:
    """Reads each file, and builds the description, when first asked for."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._description = b""

    async def get_description(self, _exchange: Exchange) -> Answer:
        """Answer the OpenAPI document."""
        if not self._description:
            # The models behind it cost a tenth of the start, and most processes never need them.
            from gateway.http.openapi import render_document  # noqa: PLC0415

            self._description = render_document()
        return Answer(200, self._description, cache=_CACHE)

    async def get_docs_page(self, _exchange: Exchange) -> Answer:
        """Answer the page."""
        return Answer(
            200,
            self._read(PAGE),
            _HEADERS,
            content_type=b"text/html; charset=utf-8",
            cache=_CACHE,
        )

    async def get_docs_asset(self, exchange: Exchange) -> Answer:
        """Answer one of the page's files."""
        name: str = exchange.scope["path_params"]["asset"]
        content_type = ASSETS.get(name)
        if content_type is None:
            raise NotFound("The specified path is not found.")
        return Answer(200, self._read(name), _HEADERS, content_type=content_type, cache=_CACHE)

    def _read(self, name: str) -> bytes:
        if name not in self._files:
            self._files[name] = (STATIC / name).read_bytes()
        return self._files[name]
