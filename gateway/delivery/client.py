"""The wire to a receiver of webhooks, whom a stranger named: little is sent, next to nothing read.

A delivery is a connection of its own to an address that was judged (see addresses.py). There is no
`httpx.AsyncClient` here, only its transport: so there are no cookies, redirects, retries,
decompression or environment proxies. No connection is kept, since httpx would take one that was
verified for a name and use it for another name behind the same address.
"""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from gateway.delivery.addresses import (
    AddressRules,
    Resolve,
    ThreadedResolver,
    check_literal,
    find_addresses,
)
from gateway.domain.webhooks import RETRY_AFTER_S_MAX, DeliveryError, DeliveryResult
from gateway.endpoints import Endpoint, UndeliverableError, parse_endpoint
from gateway.errors import ConfigurationError

_ANSWER_BYTES_MAX: Final = 1024
_ANSWER_S_MAX: Final = 1.0
_LOOKUP_SHARE: Final = 1 / 3
# Of the time that is left: TCP and TLS have one share each, so the deadline never comes in the
# middle of a handshake, where httpcore leaks the socket.
_CONNECT_SHARE: Final = 0.45


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """What a deployment decides about deliveries."""

    timeout_s: float = 15.0
    """From the look-up of the name to the head of the answer, however slowly it drips."""
    connections_max: int = 32
    """Deliveries in progress at once; more wait, and the wait is not part of `timeout_s`."""
    allow_private: tuple[str, ...] = ()
    """Networks that may be delivered to although they are not public."""
    allow_http: bool = True
    ca_file: Path | None = None
    """PEM file of the authority to trust, instead of the public ones."""


class WebhookClient:
    """Posts to receivers. It never raises for what a receiver is or does: it tells in a word."""

    def __init__(self, settings: DeliverySettings, resolve: Resolve | None = None) -> None:
        """Raises ConfigurationError for a setting that is of no use."""
        self._settings = settings
        self._rules = AddressRules(settings.allow_private)
        self._resolve = resolve or ThreadedResolver()
        self._places = asyncio.Semaphore(settings.connections_max)
        self._tls = _load_authority(settings.ca_file) if settings.ca_file is not None else None

    def find_flaw(self, url: str) -> DeliveryError | None:
        """Return why nothing can ever be delivered to `url`; None if a name is to be looked up.

        A delivery ends in the same word: both read a URL by the same rules.
        """
        try:
            check_literal(self._read(url), self._rules)
        except UndeliverableError as exc:
            return exc.word
        return None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> DeliveryResult:
        """Send `body` once. Delivered is what is answered by a 2xx in time.

        `headers` are ours, never a client's. The result holds nothing of the URL or the answer.
        """
        async with self._places:
            try:
                async with asyncio.timeout(self._settings.timeout_s) as deadline:
                    return await self._deliver(url, body, headers, deadline)
            except UndeliverableError as exc:
                return DeliveryResult(None, exc.word)
            except TimeoutError:
                return DeliveryResult(None, DeliveryError.TIMED_OUT)
            except Exception:  # noqa: BLE001 - what a transport raises is not bounded by httpx's tree
                return DeliveryResult(None, DeliveryError.FAILED)

    async def _deliver(
        self, url: str, body: bytes, headers: Mapping[str, str], deadline: asyncio.Timeout
    ) -> DeliveryResult:
        endpoint = self._read(url)
        async with asyncio.timeout(self._settings.timeout_s * _LOOKUP_SHARE):
            addresses = await find_addresses(endpoint, self._rules, self._resolve)
        result = DeliveryResult(None, DeliveryError.CONNECT_FAILED)
        for address in addresses:
            attempt = _Attempt(endpoint, address, deadline)
            result = await attempt.send(self._tls_context(endpoint), body, headers)
            if attempt.is_connected:
                break
        return result

    def _read(self, url: str) -> Endpoint:
        endpoint = parse_endpoint(url)
        if endpoint.scheme == "http" and not self._settings.allow_http:
            raise UndeliverableError(DeliveryError.SCHEME_REFUSED)
        return endpoint

    def _tls_context(self, endpoint: Endpoint) -> ssl.SSLContext:
        if endpoint.scheme == "http":
            # Never used; it trusts nobody, and costs no reading of files.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        return self._tls


class _Attempt:
    """One connection to one address, and one request on it."""

    __slots__ = ("_address", "_deadline", "_endpoint", "_is_secured", "is_connected")

    def __init__(self, endpoint: Endpoint, address: str, deadline: asyncio.Timeout) -> None:
        self._endpoint = endpoint
        self._address = address
        self._deadline = deadline
        self._is_secured = endpoint.scheme == "http"
        self.is_connected = False
        """Whether TCP was, so that another address is not worth a try."""

    async def send(
        self, context: ssl.SSLContext, body: bytes, headers: Mapping[str, str]
    ) -> DeliveryResult:
        """Return how the receiver answered, or why it did not."""
        request = self._request(body, headers)
        transport = httpx.AsyncHTTPTransport(
            verify=context, trust_env=False, http2=False, retries=0
        )
        try:
            async with transport:
                response = await transport.handle_async_request(request)
                async with aclosing(response):
                    result = _read_status(response)
                    await self._drain(response)
        except httpx.TimeoutException:
            return DeliveryResult(None, DeliveryError.TIMED_OUT)
        except httpx.ConnectError:
            return DeliveryResult(None, self._connect_error())
        except httpx.RemoteProtocolError as exc:
            is_cut = "disconnected" in str(exc)  # httpcore's word for an end before any answer
            lost = DeliveryError.CONNECTION_LOST
            return DeliveryResult(None, lost if is_cut else DeliveryError.ANSWER_UNREADABLE)
        except httpx.NetworkError:
            return DeliveryResult(None, DeliveryError.CONNECTION_LOST)
        return result

    async def _drain(self, response: httpx.Response) -> None:
        """Take a little of the body and throw it away, so that the receiver meets no reset.

        The status stands already: whatever comes now, or does not, changes nothing.
        """
        if self._deadline.expired():
            return
        self._deadline.reschedule(None)
        taken_bytes = 0
        try:
            async with asyncio.timeout(_ANSWER_S_MAX):
                async for chunk in response.aiter_raw(_ANSWER_BYTES_MAX):
                    taken_bytes += len(chunk)
                    if taken_bytes >= _ANSWER_BYTES_MAX:
                        return
        except (TimeoutError, httpx.HTTPError):
            return

    async def _saw(self, event: str, _info: Mapping[str, object]) -> None:
        self.is_connected |= event == "connection.connect_tcp.complete"
        self._is_secured |= event == "connection.start_tls.complete"

    def _connect_error(self) -> DeliveryError:
        if self.is_connected and not self._is_secured:
            return DeliveryError.TLS_FAILED
        return DeliveryError.CONNECT_FAILED

    def _request(self, body: bytes, headers: Mapping[str, str]) -> httpx.Request:
        endpoint = self._endpoint
        host = f"[{self._address}]" if ":" in self._address else self._address
        connect_s = _left_s(self._deadline) * _CONNECT_SHARE
        return httpx.Request(
            "POST",
            f"{endpoint.scheme}://{host}:{endpoint.port}",
            headers=[
                ("Host", endpoint.authority),
                ("User-Agent", "seedance-gateway"),
                ("Accept", "*/*"),
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
                ("Content-Length", str(len(body))),
                *headers.items(),
            ],
            content=body,
            extensions={
                # Certificate and SNI are those of the name; only the connection is the address's.
                "sni_hostname": endpoint.host,
                "target": endpoint.target.encode("ascii"),
                "timeout": {"connect": connect_s, "pool": connect_s},
                "trace": self._saw,
            },
        )


def _read_status(response: httpx.Response) -> DeliveryResult:
    status = response.status_code
    if 200 <= status < 300:
        return DeliveryResult(status)
    if 300 <= status < 400:
        return DeliveryResult(status, DeliveryError.REDIRECTED)
    if status == 410:
        return DeliveryResult(status, DeliveryError.GONE)
    asked = response.headers.get("retry-after", "").strip()
    is_count = asked.isascii() and asked.isdigit() and len(asked) <= 9
    retry_after_s = min(int(asked), RETRY_AFTER_S_MAX) if is_count else None
    return DeliveryResult(status, DeliveryError.REFUSED, retry_after_s)


def _left_s(deadline: asyncio.Timeout) -> float:
    at_s = deadline.when()
    assert at_s is not None  # noqa: S101 - it was made with a time
    return max(at_s - asyncio.get_running_loop().time(), 0.001)


def _load_authority(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(path))
    except OSError as exc:
        raise ConfigurationError(f"webhooks.ca_file: {exc}") from exc
