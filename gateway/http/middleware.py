"""What happens to every request, in one place: id, guard, key, error, metrics, canonical line.

One pure ASGI layer does all of it, because every layer costs every status poll.
"""

from contextlib import suppress
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError, InternalError, InvalidRequest, UpstreamRejected
from gateway.http.endpoints import METHODS, find_route, is_public
from gateway.http.errors import answer_error, as_gateway_error
from gateway.http.exchange import UNMATCHED, ClientDisconnected, Exchange
from gateway.http.guard import Head, check_head
from gateway.ids import is_request_id
from gateway.observability.lines import LineWriter
from gateway.observability.logging import find_driver_code, mask
from gateway.ports import Runtime
from gateway.services.auth import authenticate, find_principal

CLIENT_CLOSED: Final = 499
"""Logged and counted when the client hung up before its answer, or its body was cut off."""


class RequestMiddleware:
    """Wraps the router. `in_flight_count` is the number of requests being answered."""

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._lines = LineWriter(runtime.log)
        self.in_flight_count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await answer_other(scope, receive, send)
            return
        head = Head(scope["headers"])
        exchange = Exchange(
            scope,
            receive,
            send,
            head.headers,
            self._choose_request_id(head),
            self._runtime.clock.monotonic_s(),
        )
        scope["state"] = {"exchange": exchange}
        self.in_flight_count += 1
        try:
            await self._respond(exchange, head)
        except ClientDisconnected:
            await self._answer_cut_off(exchange)
        finally:
            self.in_flight_count -= 1
            self._finish(exchange)
            del scope["state"]  # or the two would hold each other until garbage is collected

    async def _respond(self, exchange: Exchange, head: Head) -> None:
        scope = exchange.scope
        is_open = is_public(scope["path"])
        is_head_clear = False
        try:
            check_head(scope, head, self._runtime.config.server, is_any_host=is_open)
            is_head_clear = True
            if not is_open and exchange.method in METHODS:
                key = head.headers.get(b"authorization", b"")
                known = find_principal(self._runtime, key)
                exchange.principal = known or await authenticate(self._runtime, key or None)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnected:
            raise
        except Exception as error:
            fault = as_gateway_error(error)
            if exchange.route == UNMATCHED and is_head_clear:  # refused before it was routed
                exchange.route = find_route(scope["path"]) or UNMATCHED
            self._note(exchange, error, fault)
            if exchange.is_answered:
                raise  # half an answer is out: the server must cut the connection
            # Frames of the traceback hold the error and the body: a ring that would keep each
            # refused body in memory until garbage is collected.
            error.__traceback__ = None
            await exchange.answer(
                answer_error(fault, exchange.request_id, exchange.method, closes=not is_head_clear)
            )

    async def _answer_cut_off(self, exchange: Exchange) -> None:
        """Answer a request that ended too early, in case that somebody still listens.

        Servers report a body whose framing is broken as a client that hung up. Left without an
        answer of ours, they answer it by themselves: a 500 in plain text.
        """
        if not exchange.is_answered:
            fault = InvalidRequest("the request body is not valid: it is cut off or badly framed.")
            answer = answer_error(fault, exchange.request_id, exchange.method, closes=True)
            with suppress(ClientDisconnected):
                await exchange.answer(answer)
        exchange.status = CLIENT_CLOSED

    def _note(self, exchange: Exchange, error: Exception, fault: GatewayError) -> None:
        """Count the error by its code; log a defect of ours. No other place logs request errors."""
        exchange.error_code = fault.public_code
        exchange.driver_code = find_driver_code(error)
        is_upstreams = isinstance(fault, UpstreamRejected)
        self._runtime.metrics.rejections.add("UpstreamRejected" if is_upstreams else fault.code)
        if isinstance(fault, InternalError):
            self._runtime.log.error(
                "http.request_failed",
                exc_info=error,
                **{"request_id": exchange.request_id, "http.route": exchange.route},
            )

    def _choose_request_id(self, head: Head) -> str:
        """Return the client's own request id if it is safe to repeat and to log, else a new one."""
        given = head.headers.get(b"x-request-id")
        if given is not None:
            text = given.decode("latin-1")
            if is_request_id(text) and mask(text) == text:
                return text
        return self._runtime.ids.request_id()

    def _finish(self, exchange: Exchange) -> None:
        """Count the request and write its canonical line, however it ended."""
        runtime = self._runtime
        duration_s = runtime.clock.monotonic_s() - exchange.started_s
        method = exchange.method if exchange.method in METHODS else "other"
        status = exchange.status or CLIENT_CLOSED
        if exchange.on_end is not None:
            is_delivered = status != CLIENT_CLOSED and not exchange.has_left
            runtime.chores.start(exchange.on_end(is_delivered))
            exchange.on_end = None
        route = exchange.route
        metrics = runtime.metrics
        metrics.http_requests.add(route, method, str(status))
        metrics.http_request_duration.observe(duration_s, route)
        fields: dict[str, object] = {
            "request_id": exchange.request_id,
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "duration_ms": round(duration_s * 1000, 3),
            "http.request.body.size": exchange.received_bytes,
            "http.response.body.size": exchange.sent_bytes,
        }
        if exchange.principal is not None:
            fields["key_id"] = exchange.principal.key_id
            fields["project"] = exchange.principal.project_id
        if exchange.task_id is not None:
            fields["task_id"] = exchange.task_id
        if exchange.error_code is not None:
            fields["error.code"] = exchange.error_code
        if exchange.driver_code is not None:
            fields["driver_code"] = exchange.driver_code
        if exchange.upstream_s is not None:
            metrics.overhead.observe(max(duration_s - exchange.upstream_s, 0.0), route)
            fields["upstream_ms"] = round(exchange.upstream_s * 1000, 3)
        self._lines.write("http.request_finished", runtime.clock.now_ms(), fields)


async def answer_other(scope: Scope, receive: Receive, send: Send) -> None:
    """Go through the server's start and stop; the runtime is opened outside. Close websockets."""
    if scope["type"] != "lifespan":
        await send({"type": "websocket.close", "code": 1000})
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
