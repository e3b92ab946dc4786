"""The wire to one upstream, and what is certain after a call. The only module that imports httpx.

A submit buys a video. So it goes out once, on a connection of its own (an idle one may be reset
just as it is used again), and when it fails the transport is asked one question: did a byte leave?
httpx's trace names the moment at which it begins to write the request. Before that moment nothing
was bought: `UpstreamUnavailable`, and the same request may go again. After it, nobody can know:
`UpstreamAmbiguous`. The exception alone does not tell, nor does the status of half an answer.

There is no `httpx.AsyncClient` here, only its transport: so there are no cookies, redirects,
retries, decompression or environment proxies that would have to be switched off.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import urlencode

import httpx
from pydantic import SecretStr

from gateway.config import UpstreamConfig
from gateway.errors import (
    ConfigurationError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.ids import is_request_id, is_upstream_task_id
from gateway.upstreams.answers import Answer

OpenTransport = Callable[[], httpx.AsyncBaseTransport]
"""Opens a transport that reports httpx's trace events. Each submit gets one and closes it."""

_CHUNK_BYTES: Final = 64 * 1024
# Well below the keep-alive of common servers, so that a read seldom meets a closing connection.
_KEEPALIVE_S: Final = 4.0
_KEPT_HEADERS: Final = ("retry-after", "x-request-id")
_ECHO_CHARS_MIN: Final = 16
_UNREACHED: Final = "The upstream can't be reached."
_NEVER_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)


class Operation(StrEnum):
    SUBMIT = "submit"
    GET = "get"
    LIST = "list"
    CANCEL = "cancel"


class Outcome(StrEnum):
    """How a call ended, for the metrics."""

    OK = "ok"
    REJECTED = "rejected"
    RATE_LIMITED = "rate_limited"
    ACCOUNT = "account"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    AMBIGUOUS = "ambiguous"
    ABANDONED = "abandoned"  # cancelled, or a defect of ours


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of an upstream, once it has ended."""

    upstream: str
    operation: Operation
    outcome: Outcome
    duration_s: float


class UnfitAnswerError(Exception):
    """A complete head that announces, or a body that proves to be, what we do not read."""


class _Wire:
    """What the transport has told of one request; `on_begin` is called as it begins to leave."""

    __slots__ = ("_is_begun", "_is_traced", "_on_begin")

    def __init__(self, on_begin: Callable[[], None]) -> None:
        self._is_traced = False
        self._is_begun = False
        self._on_begin = on_begin

    async def saw(self, event: str, info: Mapping[str, object]) -> None:
        self._is_traced = True
        # The CONNECT that opens a tunnel through a proxy is not yet the request.
        if (
            event.endswith("send_request_headers.started")
            and getattr(info.get("request"), "method", b"") != b"CONNECT"
        ):
            self._is_begun = True
            self._on_begin()

    def proves_unsent(self, exc: Exception) -> bool:
        """Whether no byte of the request left. Silence of the transport is no proof."""
        return not self._is_begun and (self._is_traced or isinstance(exc, _NEVER_SENT))


class _Chunks(httpx.AsyncByteStream):
    """A body in pieces, so that the write time-out counts from the last progress."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), _CHUNK_BYTES):
            yield self._body[start : start + _CHUNK_BYTES]


class UpstreamClient:
    """Calls on the two URLs of one upstream: the collection of tasks, and one task in it."""

    def __init__(
        self,
        config: UpstreamConfig,
        tasks_url: str,
        credentials: Mapping[str, SecretStr],
        open_transport: OpenTransport | None = None,
    ) -> None:
        """Raises ConfigurationError, which holds no secret, for a setting that is of no use."""
        self._config = config
        self._tasks_url = _parse_url(config.name, tasks_url)
        self._credentials = dict(credentials)
        for name, secret in self._credentials.items():
            if not _is_header_safe(secret.get_secret_value()):
                raise ConfigurationError(
                    f"upstreams.{config.name}.credentials.{name}: its value is empty, or holds "
                    "spaces, line breaks or other characters that no credential has"
                )
        self._open_transport = open_transport or _transport_opener(config)
        self._reads = self._open_transport()
        self._slots = asyncio.Semaphore(config.connections_max)

    async def submit(self, credential: str, body: bytes, attempt_id: str) -> Answer:
        """POST `body`, a JSON object, once; return the complete answer, whatever it says.

        Lasts at most `connect_timeout_s` for a free slot, twice that for a connection (with TLS
        and the tunnel of a proxy), and `answer_timeout_s` for everything after that.

        Raises: UpstreamUnavailable (no byte left), UpstreamAmbiguous (bytes left, no complete
        answer), UpstreamAccount (no such credential).
        """
        if not is_request_id(attempt_id):
            raise UpstreamUnavailable("The attempt's id can't be put into a header.")
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Client-Request-Id", attempt_id),
        ]
        request = self._request("POST", self._tasks_url, credential, headers, _Chunks(body))
        async with self._slot():
            return await self._send_once(request, credential)

    async def get(self, credential: str, upstream_task_id: str) -> Answer:
        """Read one task. Raises as `list` does."""
        return await self._read("GET", self._task_url(upstream_task_id), credential)

    async def list(self, credential: str, query: Sequence[tuple[str, str]]) -> Answer:
        """Read the collection.

        Raises: UpstreamTimeout, UpstreamUnavailable (no complete answer), UpstreamAccount (no such
        credential).
        """
        url = self._tasks_url.copy_with(query=urlencode(query).encode())
        return await self._read("GET", url, credential)

    async def delete(self, credential: str, upstream_task_id: str) -> Answer:
        """Cancel or delete one task. Raises as `list` does; the deletion may then have happened."""
        return await self._read("DELETE", self._task_url(upstream_task_id), credential)

    async def close(self) -> None:
        await self._reads.aclose()

    async def _send_once(self, request: httpx.Request, credential: str) -> Answer:
        loop = asyncio.get_running_loop()
        # Until the request begins to leave, the deadline is that of connecting. httpx times TCP
        # and TLS by themselves; ours comes after both, because httpcore leaks a socket whose
        # handshake is cancelled, and ends what has no time-out there: a tunnel that never opens.
        deadline = asyncio.timeout(2 * self._config.connect_timeout_s)
        wire = _Wire(lambda: deadline.reschedule(loop.time() + self._config.answer_timeout_s))
        request.extensions["trace"] = wire.saw
        answer = None
        try:
            async with deadline, self._open_transport() as transport:
                answer = await self._exchange(transport, request, credential)
        except Exception as exc:  # noqa: BLE001 - transports raise more than httpx's own errors, and whatever they raise, only the wire tells whether a video was bought
            if answer is None:
                raise _submit_fault(wire, exc) from _tellable(exc)
        return answer

    async def _read(self, method: str, url: httpx.URL, credential: str) -> Answer:
        request = self._request(method, url, credential)
        try:
            async with asyncio.timeout(self._config.read_timeout_s):
                return await self._exchange(self._reads, request, credential)
        except Exception as exc:  # noqa: BLE001 - as for a submit: what a transport raises is not bounded by httpx's tree
            raise _read_fault(exc) from _tellable(exc)

    def _request(
        self,
        method: str,
        url: httpx.URL,
        credential: str,
        headers: Sequence[tuple[str, str]] = (),
        stream: httpx.AsyncByteStream | None = None,
    ) -> httpx.Request:
        secret = self._credentials.get(credential)
        if secret is None:
            raise UpstreamAccount("The credential of this task is no longer configured.")
        config = self._config
        return httpx.Request(
            method,
            url,
            headers=[
                ("Host", url.netloc.decode("ascii")),
                ("User-Agent", "seedance-gateway"),
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("Authorization", f"Bearer {secret.get_secret_value()}"),
                *headers,
            ],
            stream=stream or _Chunks(b""),
            extensions={
                "timeout": {
                    "connect": config.connect_timeout_s,
                    "pool": config.connect_timeout_s,
                    "write": config.write_timeout_s,
                    "read": config.answer_timeout_s,
                }
            },
        )

    async def _exchange(
        self, transport: httpx.AsyncBaseTransport, request: httpx.Request, credential: str
    ) -> Answer:
        response = await transport.handle_async_request(request)
        async with aclosing(response):
            body = await self._read_body(response)
        headers = {
            name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers
        }
        # An upstream that echoes our credential must not bring it into the store or to a client. A
        # short one is left alone: it would be found by chance, and no vendor issues any.
        secret = self._credentials[credential].get_secret_value()
        if len(secret) >= _ECHO_CHARS_MIN:
            body = body.replace(secret.encode(), b"[secret]")
            headers = {name: text.replace(secret, "") for name, text in headers.items()}
        return Answer(response.status_code, body, headers)

    async def _read_body(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise UnfitAnswerError("compressed, though that was not asked for")
        bytes_max = self._config.answer_bytes_max
        if int(response.headers.get("content-length", "0")) > bytes_max:
            raise UnfitAnswerError("announced as too large")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > bytes_max:
                raise UnfitAnswerError("too large")
        return bytes(body)

    def _task_url(self, upstream_task_id: str) -> httpx.URL:
        if not is_upstream_task_id(upstream_task_id):
            raise UpstreamUnavailable("The task's id can't be put into a path.")
        return self._tasks_url.copy_with(path=f"{self._tasks_url.path}/{upstream_task_id}")

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise UpstreamUnavailable("All connections to the upstream are busy.") from exc
        try:
            yield
        finally:
            self._slots.release()


def _submit_fault(wire: _Wire, exc: Exception) -> UpstreamUnavailable | UpstreamAmbiguous:
    if wire.proves_unsent(exc):
        return UpstreamUnavailable(_UNREACHED)
    return UpstreamAmbiguous(f"No complete answer to a submission: {type(exc).__name__}.")


def _read_fault(exc: Exception) -> UpstreamUnavailable | UpstreamTimeout:
    if isinstance(exc, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout):
        return UpstreamTimeout("The upstream did not answer in time.")
    if isinstance(exc, UnfitAnswerError):
        return UpstreamUnavailable(f"The upstream's answer is {exc}.")
    return UpstreamUnavailable(_UNREACHED)


def _tellable(exc: Exception) -> Exception | None:
    # This error quotes the header it stumbled over, and that may be the credential.
    return None if isinstance(exc, httpx.LocalProtocolError) else exc


def _is_header_safe(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip() and text != ""


def _parse_url(name: str, text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"upstreams.{name}.base_url: is no URL") from exc
    is_plain = not (url.userinfo or url.query or url.fragment) and (url.port or 1) <= 65535
    if url.scheme not in {"http", "https"} or not url.host or not is_plain:
        raise ConfigurationError(f"upstreams.{name}.base_url: must be http or https, with a host")
    return url


def _transport_opener(config: UpstreamConfig) -> OpenTransport:
    context = _tls_context(config)
    proxy = _parse_proxy(config, context)
    limits = httpx.Limits(
        max_connections=config.read_connections_max,
        max_keepalive_connections=config.read_connections_max,
        keepalive_expiry=_KEEPALIVE_S,
    )

    def open_transport() -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(
            verify=context, trust_env=False, http2=False, limits=limits, proxy=proxy, retries=0
        )

    return open_transport


def _parse_proxy(config: UpstreamConfig, context: ssl.SSLContext) -> httpx.Proxy | None:
    if config.proxy is None:
        return None
    try:
        url = httpx.URL(config.proxy.get_secret_value())
    except httpx.InvalidURL:
        # Without its cause: that quotes the URL, which may hold a password.
        raise ConfigurationError(f"upstreams.{config.name}.proxy: is no URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigurationError(
            f"upstreams.{config.name}.proxy: must be http or https, with a host"
        )
    return httpx.Proxy(url, ssl_context=context if url.scheme == "https" else None)


def _tls_context(config: UpstreamConfig) -> ssl.SSLContext:
    if config.ca_file is None:
        proxy = config.proxy.get_secret_value() if config.proxy is not None else ""
        if "https:" not in f"{config.base_url} {proxy}":
            # Never used, as nothing speaks TLS; it trusts nobody, and costs no reading of files.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(config.ca_file))
    except OSError as exc:
        raise ConfigurationError(f"upstreams.{config.name}.ca_file: {exc}") from exc
