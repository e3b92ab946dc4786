"""One request and its answer, while they last."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from gateway.domain.keys import Principal
from gateway.errors import Unauthenticated

HeaderLine = tuple[bytes, bytes]

UNMATCHED: Final = "unmatched"
JSON: Final = b"application/json"
NO_STORE: Final = b"no-store"
REVALIDATE: Final = b"private, no-cache"
"""For answers with an ETag: a client may keep them for itself if it asks again each time."""

_BODILESS: Final = frozenset({204, 304})
_NO_SNIFF: Final = (b"x-content-type-options", b"nosniff")
_SERVER: Final = (b"server", b"seedance-gateway")
"""Without it, the HTTP server would name itself and its version."""


class ClientDisconnected(Exception):
    """The client hung up: nobody is left to be answered."""


@dataclass(slots=True)
class Answer:
    """A whole answer; nothing here is streamed."""

    status: int
    body: bytes
    headers: tuple[HeaderLine, ...] = ()
    content_type: bytes = JSON
    cache: bytes = NO_STORE


class Exchange:
    """What is known of one request. Endpoints fill it in; the middleware logs it at the end."""

    __slots__ = (
        "driver_code",
        "error_code",
        "extra_headers",
        "has_left",
        "headers",
        "is_answered",
        "method",
        "on_end",
        "principal",
        "query",
        "receive",
        "received_bytes",
        "request_id",
        "route",
        "scope",
        "send",
        "sent_bytes",
        "started_s",
        "status",
        "task_id",
        "upstream_s",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Mapping[bytes, bytes],
        request_id: str,
        started_s: float,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = headers
        """The headers that the gateway reads, by lower-case name; no others are kept."""
        self.method: str = scope["method"]
        self.query: bytes = scope["query_string"]
        self.request_id = request_id
        self.started_s = started_s
        self.route = UNMATCHED
        """The template of the path, never the path itself."""
        self.principal: Principal | None = None
        self.task_id: str | None = None
        self.error_code: str | None = None
        self.driver_code: str | None = None
        """The store driver's word for what failed, such as SQLITE_FULL."""
        self.upstream_s: float | None = None
        self.extra_headers: tuple[HeaderLine, ...] = ()
        """What its answer has however it ends, also as an error."""
        self.status = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.is_answered = False
        self.has_left = False
        """Whether the client was seen to hang up."""
        self.on_end: Callable[[bool], Coroutine[object, object, None]] | None = None
        """What is to be done once it is over; it is told whether the answer was delivered."""

    @property
    def caller(self) -> Principal:
        """Who calls; a route that was opened to everybody by mistake still answers nobody."""
        if self.principal is None:
            raise Unauthenticated("The API key is missing.")
        return self.principal

    async def answer(self, answer: Answer) -> None:
        """Send `answer` with the headers that every answer has. The only place that sends."""
        body = answer.body
        headers = [
            *answer.headers,
            *self.extra_headers,
            (b"x-request-id", self.request_id.encode()),
            (b"cache-control", answer.cache),
            _NO_SNIFF,
            _SERVER,
        ]
        if answer.status not in _BODILESS:
            headers.append((b"content-type", answer.content_type))
            headers.append((b"content-length", b"%d" % len(body)))
        if self.method == "HEAD":
            body = b""
        self.status = answer.status
        self.sent_bytes = len(body)
        self.is_answered = True
        try:
            await self.send(
                {"type": "http.response.start", "status": answer.status, "headers": headers}
            )
            await self.send({"type": "http.response.body", "body": body})
        except OSError as error:
            raise ClientDisconnected from error
