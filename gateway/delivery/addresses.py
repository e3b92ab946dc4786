"""Where a webhook may go: a client names a URL, and it must not open the network behind us.

Its name is resolved once, every address found is judged, and the connection goes to an address that
was judged, never to the name again: a name that answers differently the second time gains nothing
by it.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from gateway.domain.webhooks import DeliveryError, parse_network
from gateway.endpoints import Endpoint, UndeliverableError, is_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> its addresses, in order of preference. Raises OSError for an unknown name."""

_ADDRESSES_MAX: Final = 64
# More than receivers that don't answer can begin, with their half of the places and a third of the
# time-out each, while the system's resolver gives up one name: those that do answer hardly wait.
LOOKUPS_MAX: Final = 64

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


def check_literal(endpoint: Endpoint, rules: AddressRules) -> None:
    """Raise UndeliverableError for a URL that gives an address itself, one that isn't admitted."""
    if is_address(endpoint.host) and not rules.admits(endpoint.host):
        raise UndeliverableError(DeliveryError.URL_REFUSED)


async def find_addresses(
    endpoint: Endpoint, rules: AddressRules, resolve: Resolve
) -> tuple[str, ...]:
    """Return the addresses to connect to, the best of each IP version.

    One address that is not admitted makes all of them suspicious: the name is then refused.

    Raises: UndeliverableError.
    """
    check_literal(endpoint, rules)
    if is_address(endpoint.host):
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
