"""The URL that something is posted to, read strictly.

Whatever two readers could take for two hosts is refused.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import quote, urlsplit

from gateway.domain.webhooks import DeliveryError

_URL_CHARS_MAX: Final = 8192
_HOST_CHARS_MAX: Final = 253
# What readers of a URL drop, turn around or disagree about.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|\A\s|\s\Z")
_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?\Z")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE: Final = _PATH_SAFE + "?"
_PORTS: Final = {"http": 80, "https": 443}


class UndeliverableError(Exception):
    """A URL or an address to which nothing is sent. `word` says why; no part of it is told."""

    def __init__(self, word: DeliveryError) -> None:
        super().__init__(word.value)
        self.word = word


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL, taken apart for the wire."""

    scheme: str
    host: str
    """In lower case, in ASCII; an IPv6 address without brackets."""
    port: int
    target: str
    """Path and query."""

    @property
    def authority(self) -> str:
        """What the header `Host` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_endpoint(url: str) -> Endpoint:
    """Return the parts of a URL. Raises UndeliverableError for one that is not plain.

    Plain is: http or https, no user info, a name or a plainly written address, a port of 1 to
    65535. The fragment is left out.
    """
    if len(url) > _URL_CHARS_MAX or _ODD.search(url):
        raise UndeliverableError(DeliveryError.URL_INVALID)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UndeliverableError(DeliveryError.URL_INVALID) from None
    authority = _AUTHORITY.match(parts.netloc)
    if parts.scheme not in _PORTS or authority is None:
        raise UndeliverableError(DeliveryError.URL_INVALID)
    port = int(authority[2]) if authority[2] is not None else _PORTS[parts.scheme]
    host = _read_host(authority[1])
    if host is None or not 0 < port <= 65535:
        raise UndeliverableError(DeliveryError.URL_INVALID)
    target = quote(parts.path or "/", safe=_PATH_SAFE)
    if parts.query:
        target += f"?{quote(parts.query, safe=_QUERY_SAFE)}"
    return Endpoint(parts.scheme, host, port, target)


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _read_host(text: str) -> str | None:
    """Return the host in one spelling; None if another reader may see another one in it."""
    if text.startswith("["):
        # A zone says which of our own interfaces to use: it is nobody else's business.
        return _read_ipv6(text[1:-1])
    host = text.lower()
    if not host.isascii():
        import idna  # noqa: PLC0415 - large, and few need it

        try:
            host = idna.encode(host).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > _HOST_CHARS_MAX or not all(map(_LABEL.match, labels)):
        return None
    # 127.1, 2130706433, 0x7f.1, 0177.0.0.1: a resolver takes them for addresses. We take only the
    # four decimal numbers that mean the same to everyone.
    if _NUMBER.match(labels[-1]) and not is_address(host):
        return None
    return host


def _read_ipv6(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id is not None else str(address)
