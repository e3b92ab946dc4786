"""What the surfaces offer, once for all of them: submit, read, list and cancel tasks."""

import asyncio
import re
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Final, TypeVar

from gateway.domain.tasks import TERMINAL
from gateway.errors import InvalidRequest
from gateway.http import ark
from gateway.http.errors import RefusedByRate
from gateway.http.estimates import render_estimate, render_limits
from gateway.http.exchange import REVALIDATE, Answer, ClientDisconnected, Exchange, HeaderLine
from gateway.http.limit_headers import rate_headers
from gateway.http.query import (
    is_match,
    parse_query,
    read_dry_run,
    read_repeat,
    read_task_query,
    read_wait_s,
)
from gateway.http.receiving import BodyGate, receive_object
from gateway.http.rendering import Surface, body_of, render_page
from gateway.ids import is_task_id
from gateway.ports import Runtime
from gateway.services import cancelling, estimating, limiting, status, submission
from gateway.services.auth import authenticate
from gateway.status_cache import Entry

T = TypeVar("T")

WARNING_CHARS_MAX: Final = 1000
_UNSAFE_IN_HEADER: Final = re.compile(r"[^ -~]")


class TaskOperations:
    """The operations of one surface."""

    def __init__(self, runtime: Runtime, surface: Surface, gate: BodyGate) -> None:
        self._runtime = runtime
        self._surface = surface
        self._gate = gate

    async def get_task(self, exchange: Exchange) -> Answer:
        """Answer from our own store, at once or at the next change: `?wait=`, `Prefer: wait=`."""
        task_id: str = exchange.scope["path_params"]["task_id"]
        entry = await status.get_task(self._runtime, exchange.caller, task_id)
        exchange.task_id = entry.task.id
        condition = exchange.headers.get(b"if-none-match")
        headers: tuple[HeaderLine, ...] = ()
        if exchange.query or b"prefer" in exchange.headers:
            entry, headers = await self._wait(exchange, entry, condition)
        body, etag = body_of(entry, self._surface)
        headers = ((b"etag", etag.encode()), *headers)
        if condition is not None and is_match(condition, etag):
            return Answer(304, b"", headers, cache=REVALIDATE)
        return Answer(200, body, headers, cache=REVALIDATE)

    async def _wait(
        self, exchange: Exchange, entry: Entry, condition: bytes | None
    ) -> tuple[Entry, tuple[HeaderLine, ...]]:
        """Return the task once there is news that the client does not have, if it waits at all."""
        runtime = self._runtime
        wait_s = read_wait_s(
            parse_query(exchange.query),
            exchange.headers.get(b"prefer"),
            runtime.config.status.wait_s_max,
        )
        if wait_s is None:
            return entry, ()
        is_news = condition is not None and not is_match(
            condition, body_of(entry, self._surface)[1]
        )
        if not is_news and entry.task.state not in TERMINAL:
            waiting = status.wait_for_change(runtime, exchange.caller, entry.task.id, entry, wait_s)
            entry = await _while_connected(exchange, waiting)
            # The key may have been revoked meanwhile.
            exchange.principal = await authenticate(runtime, exchange.headers.get(b"authorization"))
        return entry, ((b"preference-applied", b"wait=%g" % wait_s),)

    async def list_tasks(self, exchange: Exchange) -> Answer:
        """Answer a page of bare task objects, the same on every surface."""
        query = read_task_query(
            parse_query(exchange.query), self._runtime.config.status.page_size_max
        )
        page = await status.list_tasks(self._runtime, exchange.caller, query)
        objects = [body_of(entry, ark.SURFACE)[0] for entry in page.entries]
        return Answer(200, render_page(page.total, objects))

    async def submit_task(self, exchange: Exchange) -> Answer:
        """Take a body, submit it, and answer the task's id; or only an estimate: `?dry_run=1`."""
        runtime = self._runtime
        query = parse_query(exchange.query)
        if read_dry_run(query):
            return await self._estimate(exchange)
        repeat = read_repeat(exchange.headers)
        submission.refuse_if_closed(runtime)
        rates = await limiting.take_rate(runtime, exchange.caller)
        exchange.extra_headers = rate_headers(rates)
        if not rates.is_allowed:
            raise RefusedByRate(rates)
        with self._gate.enter(exchange.caller.project_id) as hold:
            submitting = submission.submit_task(
                runtime,
                exchange.caller,
                await receive_object(exchange, self._gate, hold),
                exchange.request_id,
                repeat,
                warn=partial(_add_warning, exchange),
            )
            submitted = await _while_connected(exchange, submitting)
        exchange.task_id = submitted.task.id
        exchange.upstream_s = submitted.upstream_s
        headers: tuple[HeaderLine, ...] = ()
        if submitted.is_replayed:
            headers = ((b"idempotent-replayed", b"true"),)
        exchange.on_end = partial(submission.note_delivery, runtime, submitted.task.id)
        return Answer(200, self._surface.render_submitted(submitted.task), headers)

    async def _estimate(self, exchange: Exchange) -> Answer:
        """Answer what the request may cost; nothing is sent or held."""
        repeat, refused_key = _read_repeat_or_error(exchange)
        with self._gate.enter(exchange.caller.project_id) as hold:
            estimate = await estimating.estimate_task(
                self._runtime,
                exchange.caller,
                await receive_object(exchange, self._gate, hold),
                idempotency_key=repeat.idempotency_key,
                warn=partial(_add_warning, exchange),
            )
        return Answer(200, render_estimate(estimate, exchange.request_id, refused_key))

    async def get_limits(self, exchange: Exchange) -> Answer:
        """Answer what the key has left of every limit that binds it."""
        used = await limiting.list_key_use(self._runtime, exchange.caller)
        return Answer(200, render_limits(used, self._runtime.prices.currency))

    async def cancel_task(self, exchange: Exchange) -> Answer:
        """Cancel a queued task, take a finished one out of view."""
        task_id: str = exchange.scope["path_params"]["task_id"]
        if is_task_id(task_id):
            exchange.task_id = task_id
        await cancelling.cancel_task(self._runtime, exchange.caller, task_id)
        return Answer(200, b"{}")


async def _while_connected(exchange: Exchange, waiting: Coroutine[object, object, T]) -> T:
    """Return what `waiting` returns; give it up when the client hangs up before that.

    Raises: ClientDisconnected, or what `waiting` raises.
    """
    results: list[T] = []
    errors: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_see_disconnect(exchange))
            try:
                results.append(await waiting)
            except Exception as error:  # noqa: BLE001 - raised again below
                # Not out of the group, which would wrap it: the two would hold each other, and the
                # request's body with them, until garbage is collected.
                errors.append(error)
            watcher.cancel()
    except ExceptionGroup:
        if not results:
            raise ClientDisconnected from None
    if errors:
        raise errors.pop()
    return results.pop()


async def _see_disconnect(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass
    exchange.has_left = True
    raise ClientDisconnected


def _read_repeat_or_error(exchange: Exchange) -> tuple[submission.Repeat, InvalidRequest | None]:
    """Return what the client says of its request; of a key that is none, what refuses it."""
    try:
        return read_repeat(exchange.headers), None
    except InvalidRequest as error:
        return submission.Repeat(), error.with_traceback(None)


def _add_warning(exchange: Exchange, messages: Sequence[str]) -> None:
    """Let the answer carry the warnings, also if it is an error."""
    text = "; ".join(messages)[:WARNING_CHARS_MAX]
    line = (b"x-gateway-warning", _UNSAFE_IN_HEADER.sub("?", text).encode("ascii"))
    exchange.extra_headers = (*exchange.extra_headers, line)
