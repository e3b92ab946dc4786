"""The sandbox as an ASGI application: both surfaces, the media, and the control paths."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qs

from gateway.sandbox.content import shorten_for_echo
from gateway.sandbox.control import answer_control
from gateway.sandbox.errors import ErrorContext, VendorError, invalid, render_error
from gateway.sandbox.exchange import (
    ConnectionGoneError,
    Exchange,
    FaultAnswerError,
    Receive,
    Scope,
    Send,
    dump,
)
from gateway.sandbox.faults import Operation, Point
from gateway.sandbox.magic import Magic, read_magic
from gateway.sandbox.requests import Order, parse_body, read_order
from gateway.sandbox.routes import CONTROL_PATH, Route, find_route
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.tasks import Spec, Status
from gateway.sandbox.videos import answer_media
from gateway.sandbox.views import account_number
from gateway.sandbox.world import DEFAULT_ACCOUNT, Page, Submission, World, open_world

JSON_TYPE: Final = "application/json; charset=utf-8"
PAGE_MAX: Final = 500
PAGE_SIZE_DEFAULT: Final = 20
QUERY_FIELDS_MAX: Final = 1_000

Answer = tuple[int, object]


class SandboxApp:
    """Answers requests from a world that somebody else opens and closes."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a connection ended on purpose leaves without one."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, self._world.faults)
        try:
            if exchange.path.startswith(CONTROL_PATH) and not exchange.path.startswith(
                f"{CONTROL_PATH}videos/"
            ):
                await answer_control(self._world, exchange)
            else:
                await _Call(self._world, exchange).answer()
        except ConnectionGoneError:
            extensions = scope.get("extensions")
            if not (isinstance(extensions, dict) and "sandbox.transport" in extensions):
                raise


class _Call:
    """One request to the simulated upstream."""

    def __init__(self, world: World, exchange: Exchange) -> None:
        self._world = world
        self._exchange = exchange
        self._account = DEFAULT_ACCOUNT
        self._request_id = world.new_request_id()

    async def answer(self) -> None:
        exchange = self._exchange
        headers = {"content-type": JSON_TYPE, "x-request-id": self._request_id}
        try:
            route = find_route(exchange.method, exchange.path, self._world.settings)
            exchange.operation = route.operation
            self._world.count_read(route.operation)
            await exchange.reach(Point.BEFORE_READ)
            if route.operation is Operation.VIDEO:
                await answer_media(self._world, exchange, route.name)
                return
            status, value = await self._serve(route)
            body = dump(value)
        except VendorError as error:
            status, body = error.status, self._render(error)
            if error.code == "AuthenticationError":
                headers["x-error-code"] = "AuthN_MissOrInvalidAuthorizationHeader"
        except FaultAnswerError as fault:
            status, body = fault.status, self._render_fault(fault, headers)
        await exchange.answer(status, body, headers)

    async def _serve(self, route: Route) -> Answer:
        exchange, world = self._exchange, self._world
        self._account = world.find_account(exchange.header("authorization"))
        self._take_rate(route.operation)
        await exchange.reach(Point.AFTER_HEADERS)
        raw = await exchange.read_body()
        if route.operation is Operation.CREATE:
            return await self._create(raw, route)
        await exchange.reach(Point.BEFORE_CREATE)
        answers: Mapping[Operation, Callable[[Route], Awaitable[object]]] = {
            Operation.GET: self._get,
            Operation.LIST: self._list,
            Operation.DELETE: self._delete,
        }
        value = await answers[route.operation](route)
        await exchange.reach(Point.AFTER_CREATE)
        return 200, value

    def _take_rate(self, operation: Operation) -> None:
        limits = self._world.settings.limits
        rates = {
            Operation.GET: limits.get_per_s,
            Operation.LIST: limits.list_per_s,
            Operation.DELETE: limits.delete_per_s,
        }
        if operation in rates:
            name = (self._account, operation.value)
            self._world.rates.take(name, rates[operation], 1.0, "AccountRateLimitExceeded")

    async def _create(self, raw: bytes, route: Route) -> Answer:
        world, settings = self._world, self._world.settings
        body = parse_body(raw)
        order = read_order(body, endpoints=settings.endpoints, weak_commands=settings.weak_commands)
        magic = read_magic(order.content.texts)
        self._take_create_rate(order)
        await self._delay(order, magic)
        world.check_queue(self._account)
        is_twice = await self._exchange.reach(Point.BEFORE_CREATE)
        submission = Submission(
            account=self._account,
            order=order,
            magic=magic,
            draft=self._find_draft(order),
            request_id=self._request_id,
            request_hash=hashlib.sha256(raw).hexdigest(),
            echo=_echo(body) if route.is_seedance else "",
        )
        task = await world.create(submission)
        if await self._exchange.reach(Point.AFTER_CREATE) or is_twice:
            await world.create(submission)
        answer: dict[str, object] = {"id": task.id} if magic.has_id else {}
        if route.is_seedance:
            answer["message"] = settings.message
        echoes = not (settings.has_profile("no_echo") or settings.has_profile("partial_echo"))
        if order.safety_identifier and echoes:
            answer["safety_identifier"] = order.safety_identifier
        return settings.reseller_status, answer

    def _take_create_rate(self, order: Order) -> None:
        limits = self._world.settings.limits
        is_4k = order.resolution == "4k"
        name = (self._account, "4k" if is_4k else "create", order.model)
        self._world.rates.take(
            name, limits.rpm_4k if is_4k else limits.rpm, 60.0, "ModelAccountRpmRateLimitExceeded"
        )

    async def _delay(self, order: Order, magic: Magic) -> None:
        """Take the time of looking at the media, then refuse what the prompt wants refused."""
        if order.content.fetched_count:
            await asyncio.sleep(self._world.settings.media_fetch_s)
        await asyncio.sleep(magic.slow_s)
        if magic.slow_400_s is not None:
            await asyncio.sleep(magic.slow_400_s)
            media = order.content.media
            param = media[0].path if media else "content[0]"
            raise invalid(param, "timeout while fetching resource")
        if magic.refusal:
            error = VendorError(magic.refusal, model=order.model)
            error.is_plane_error = magic.is_plane_error
            raise error

    def _find_draft(self, order: Order) -> Spec | None:
        draft_id = order.content.draft_task_id
        if not draft_id:
            return None
        task = self._world.find(self._account, draft_id)
        is_done = task.status(self._world.clock.now_at()) is Status.SUCCEEDED
        if not task.spec.draft or not is_done or task.model != order.model:
            raise invalid("content[0].draft_task.id", "it is no finished draft of this model")
        return task.spec

    async def _get(self, route: Route) -> object:
        world = self._world
        task = world.find(self._account, route.name)
        shown = world.render(task, world.clock.now_at())
        if route.is_seedance:
            shown["message"] = world.settings.message
            echo = world.store.find_echo(task.id)
            shown["request"] = json.loads(echo) if echo else {"model": task.endpoint, "content": []}
        return shown

    async def _list(self, _route: Route) -> object:
        world = self._world
        page = _read_page(
            self._exchange.query, tier_default=world.settings.has_profile("tier_filter")
        )
        total, tasks = await world.list_page(self._account, page)
        at = world.clock.now_at()
        return {"total": total, "items": [world.render(task, at) for task in tasks]}

    async def _delete(self, route: Route) -> object:
        await self._world.remove(self._account, route.name)
        return {}

    def _render(self, error: VendorError) -> bytes:
        context = ErrorContext(
            self._request_id,
            account_number(self._account),
            is_reseller=self._world.settings.has_profile("reseller"),
        )
        return render_error(error, context)

    def _render_fault(self, fault: FaultAnswerError, headers: dict[str, str]) -> bytes:
        if isinstance(fault.body, str):
            headers["content-type"] = "text/html; charset=utf-8"
            return fault.body.encode("utf-8", "replace")
        if fault.body is None:
            return self._render(VendorError("InternalServiceError", status=fault.status))
        return dump(fault.body)


def _echo(body: Mapping[str, object]) -> str:
    """Return the `request` that a reseller's status answer repeats."""
    request = {"model": body.get("model"), "content": shorten_for_echo(body.get("content"))}
    return dump(request).decode("ascii")


def _read_page(query: str, *, tier_default: bool) -> Page:
    """Return the page and filters of a list request.

    Raises:
        VendorError: a value is not one that the vendor takes.
    """
    try:
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise invalid("query", f"it must have at most {QUERY_FIELDS_MAX} fields") from None
    status = fields.get("filter.status", [""])[-1]
    if status and status not in set(Status):
        raise invalid("filter.status", f"it must be one of {', '.join(Status)}")
    task_ids = tuple(fields.get("filter.task_ids", ()))
    if len(task_ids) > PAGE_MAX:
        raise invalid("filter.task_ids", f"it must have at most {PAGE_MAX} ids")
    return Page(
        number=_page_number(fields, "page_num", 1),
        size=_page_number(fields, "page_size", PAGE_SIZE_DEFAULT),
        status=status,
        model=fields.get("filter.model", [""])[-1],
        service_tier=fields.get("filter.service_tier", ["default" if tier_default else ""])[-1],
        task_ids=task_ids,
    )


def _page_number(fields: Mapping[str, list[str]], name: str, default: int) -> int:
    text = fields.get(name, [str(default)])[-1]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else 0
    if not 1 <= number <= PAGE_MAX:
        raise invalid(name, f"it must be from 1 to {PAGE_MAX}")
    return number


class _LifespanApp:
    """The application that opens its own world, for servers that run the lifespan protocol."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._app: SandboxApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with open_world(self._settings) as world:
                self._app = SandboxApp(world)
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as exc:
            await send({"type": "lifespan.startup.failed", "message": str(exc)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


def create_app(settings: SandboxSettings) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return the sandbox as an ASGI application for any server with the lifespan protocol.

    Links need `settings.public_url` there, and faults at socket level become plain closes;
    `server.run_sandbox` has neither limit.
    """
    return _LifespanApp(settings)
