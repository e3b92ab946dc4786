"""The head of a request, checked before anything else sees it.

Servers differ in what they let through (two Host headers, encoded slashes, dot segments), and a
proxy in front may read such a head differently from us. What is ambiguous is refused here, so that
nothing behind depends on the server.
"""

import re
from collections.abc import Sequence
from typing import Final

from starlette.types import Scope

from gateway.config import ServerConfig
from gateway.errors import InvalidRequest

HEADER_VALUE_BYTES_MAX: Final = 8 * 1024

_SINGLE: Final = (
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"transfer-encoding",
    b"idempotency-key",
    b"x-request-id",
    b"x-stainless-retry-count",
)
_LISTS: Final = (b"if-none-match", b"prefer")
_READ: Final = frozenset((*_SINGLE, *_LISTS))
_SHADOWS: Final = frozenset(name.replace(b"-", b"_") for name in _READ if b"-" in name)
"""Names that some proxies take for ours, with underscores."""

_DISGUISED: Final = re.compile(rb"%(?:2f|5c|00|2e)|//|\\|/\.\.?(?:/|\Z)|\x00", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~-]{1,255}|\[[0-9A-Fa-f:.]{2,64}\])(?::[0-9]{0,5})?\Z")
_WITHOUT_HOST: Final = frozenset({"1", "1.0"})
"""Versions whose requests need no host: load balancers probe in them, HAProxy by default."""
_PORT: Final = re.compile(rb":[0-9]{0,5}\Z")


class Head:
    """The headers that the gateway reads, and what is wrong with them."""

    __slots__ = ("count", "headers", "wrong")

    def __init__(self, lines: Sequence[tuple[bytes, bytes]]) -> None:
        """Read `lines`; never raises, so that a request with a bad head still gets its id."""
        self.headers: dict[bytes, bytes] = {}
        self.wrong = ""
        self.count = len(lines)
        headers = self.headers
        for name, value in lines:
            if name in _READ:
                if name in headers or len(value) > HEADER_VALUE_BYTES_MAX or not value.isascii():
                    self._add_odd(name, value)
                else:
                    headers[name] = value
            elif name in _SHADOWS:
                self.wrong = "a header name with underscores looks like one with dashes"

    def _add_odd(self, name: bytes, value: bytes) -> None:
        if len(value) > HEADER_VALUE_BYTES_MAX or not value.isascii():
            self.wrong = f"the header {name.decode()} is too long or not ASCII"
        elif name in _LISTS:
            self.headers[name] += b", " + value
        else:
            self.wrong = f"the header {name.decode()} is given more than once"


def check_head(scope: Scope, head: Head, server: ServerConfig, *, is_any_host: bool) -> None:
    """Refuse what is ambiguous or beyond a limit. `is_any_host` skips the list of host names.

    Raises: InvalidRequest.
    """
    if head.wrong:
        raise _bad(head.wrong)
    if head.count > server.headers_count_max:
        raise _bad(f"there are more than {server.headers_count_max} headers")
    if b"transfer-encoding" in head.headers:
        _check_coding(head)
    host = head.headers.get(b"host")
    if host:
        if not _HOST.match(host):
            raise _bad("the header host is not a host name, or address, and a port")
        if server.allowed_hosts and not is_any_host and not _is_allowed(host, server.allowed_hosts):
            raise _bad("the header host names a host that is not served here")
    elif not is_any_host or scope.get("http_version") not in _WITHOUT_HOST:
        raise _bad("the header host is missing")
    _check_target(scope, server)


def _check_coding(head: Head) -> None:
    if b"content-length" in head.headers:
        raise _bad("both Content-Length and Transfer-Encoding are given")
    if head.headers[b"transfer-encoding"].lower() != b"chunked":
        raise _bad("the header transfer-encoding is not chunked")


def _check_target(scope: Scope, server: ServerConfig) -> None:
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    if len(path) > server.path_bytes_max:
        raise _bad(f"the path is longer than {server.path_bytes_max} bytes")
    # Plain paths are told from others at a tenth of the cost of the pattern.
    if (
        not path.startswith(b"/")
        or not path.isascii()
        or b"%" in path
        or b"//" in path
        or b"/." in path
        or b"\\" in path
        or b"\0" in path
    ):
        _check_odd_path(path)
    query: bytes = scope["query_string"]
    if query and (len(query) > server.query_bytes_max or not query.isascii()):
        raise _bad(f"the query is longer than {server.query_bytes_max} bytes or not ASCII")


def _check_odd_path(path: bytes) -> None:
    if not path.startswith(b"/"):
        raise _bad("the path does not start with a slash")
    if not path.isascii() or _DISGUISED.search(path):
        raise _bad("the path holds encoded separators, dot segments or empty segments")


def _is_allowed(host: bytes, allowed: tuple[str, ...]) -> bool:
    name = _PORT.sub(b"", host).decode("ascii").lower()
    return any(name == one.lower() for one in allowed)


def _bad(problem: str) -> InvalidRequest:
    return InvalidRequest(f"the request head is not valid: {problem}.")
