"""Where a webhook may go: a client names a URL, and it must not open the network behind us.

A URL is read strictly: whatever two readers could take for two hosts is refused. Its name is
resolved once, every address found is judged, and the connection goes to an address that was judged,
never to the name again: a name that answers differently the second time gains nothing by it.
"""

import asyncio
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import quote, urlsplit

import idna

from gateway.domain.webhooks import DeliveryError, parse_network

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> its addresses, in order of preference. Raises OSError for an unknown name."""

_URL_CHARS_MAX: Final = 8192
_HOST_CHARS_MAX: Final = 253
_ADDRESSES_MAX: Final = 64
# More than receivers that don't answer can begin, with their half of the places and a third of the
# time-out each, while the system's resolver gives up one name: those that do answer hardly wait.
LOOKUPS_MAX: Final = 64
# What readers of a URL drop, turn around or disagree about.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]|\A\s|\s\Z")
_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?\Z")
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PATH_SAFE: Final = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE: Final = _PATH_SAFE + "?"
_PORTS: Final = {"http": 80, "https": 443}

# Written out, and not `is_global`, whose opinion differs between versions of Python. From IANA's
# registries of special addresses, and one public address that only means something inside a cloud.
_FORBIDDEN_4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Global unicast is one eighth of IPv6; in it lie tunnels (Teredo, 6to4) that embed an IPv4 address,
# and networks for documentation and protocols.
_GLOBAL_6: Final = IPv6Network("2000::/3")
_FORBIDDEN_6: Final = tuple(
    IPv6Network(network)
    for network in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")


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


class AddressRules:
    """Which addresses may be connected to: the public ones, and the networks that are allowed."""

    def __init__(self, allow_private: Sequence[str] = ()) -> None:
        """Raises ValueError for what is not a network: the configuration refuses that before."""
        self._allowed = tuple(map(parse_network, allow_private))

    def admits(self, address: str) -> bool:
        """Whether `address`, as a resolver gives it, may be connected to."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        if isinstance(found, IPv6Address):
            if found.scope_id is not None:
                return False
            found = found.ipv4_mapped or found
        if any(found in network for network in self._allowed):
            return True
        if isinstance(found, IPv6Address) and found in _NAT64:
            found = IPv4Address(int(found) & 0xFFFF_FFFF)
        return _is_public(found)


class ThreadedResolver:
    """The system's resolver, in threads of its own, a few at once.

    Whoever names a host may also own its name server, and let us wait. So a look-up that nobody
    waits for any longer keeps its place until it ends, and holds up neither other work nor exit.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKUPS_MAX)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of `host`. Raises OSError if it has none."""
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Sequence[str]] = loop.create_future()

        def finish(addresses: Sequence[str], error: Exception | None) -> None:
            self._places.release()
            if future.cancelled():
                return
            if error is None:
                future.set_result(addresses)
            else:
                future.set_exception(error)

        def look_up() -> None:
            addresses: Sequence[str] = ()
            failure = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(entry[4][0]) for entry in found]
            except (OSError, ValueError) as exc:
                failure = exc
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(finish, addresses, failure)

        try:
            threading.Thread(target=look_up, name="webhook-lookup", daemon=True).start()
        except RuntimeError as exc:  # no thread is left to the process
            finish((), OSError(str(exc)))
        return await future


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


def check_literal(endpoint: Endpoint, rules: AddressRules) -> None:
    """Raise UndeliverableError for a URL that gives an address itself, one that isn't admitted."""
    if _is_address(endpoint.host) and not rules.admits(endpoint.host):
        raise UndeliverableError(DeliveryError.URL_REFUSED)


async def find_addresses(
    endpoint: Endpoint, rules: AddressRules, resolve: Resolve
) -> tuple[str, ...]:
    """Return the addresses to connect to, the best of each IP version.

    One address that is not admitted makes all of them suspicious: the name is then refused.

    Raises: UndeliverableError.
    """
    check_literal(endpoint, rules)
    if _is_address(endpoint.host):
        addresses: Sequence[str] = (endpoint.host,)
    else:
        try:
            addresses = await resolve(endpoint.host, endpoint.port)
        except (OSError, ValueError):
            raise UndeliverableError(DeliveryError.NAME_UNKNOWN) from None
    if not addresses:
        raise UndeliverableError(DeliveryError.NAME_UNKNOWN)
    if len(addresses) > _ADDRESSES_MAX or not all(map(rules.admits, addresses)):
        raise UndeliverableError(DeliveryError.ADDRESS_REFUSED)
    best: dict[int, str] = {}
    for address in addresses:
        best.setdefault(ip_address(address).version, address)
    return tuple(best.values())


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _FORBIDDEN_4)
    return address in _GLOBAL_6 and not any(address in network for network in _FORBIDDEN_6)


def _is_address(host: str) -> bool:
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
    if _NUMBER.match(labels[-1]) and not _is_address(host):
        return None
    return host


def _read_ipv6(text: str) -> str | None:
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id is not None else str(address)
