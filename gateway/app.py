"""The application: the list of routes behind the one middleware, for a runtime that is open."""

from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError, NotFound
from gateway.http import ark, seedance
from gateway.http.callbacks import Callbacks
from gateway.http.docs import Docs
from gateway.http.endpoints import DOCS_ENDPOINTS, ENDPOINTS, UPSTREAM_ENDPOINTS, Endpoint
from gateway.http.errors import WrongMethod, answer_error
from gateway.http.exchange import Answer, Exchange
from gateway.http.middleware import RequestMiddleware, answer_other
from gateway.http.operations import TaskOperations
from gateway.http.probes import Probes
from gateway.http.receiving import BodyGate
from gateway.observability.metrics import CONTENT_TYPE
from gateway.ports import Runtime

Operation = Callable[[Exchange], Awaitable[Answer]]


def create_app(runtime: Runtime) -> RequestMiddleware:
    """Return the ASGI application of the public listener."""
    endpoints = [
        endpoint
        for endpoint in (*ENDPOINTS, *UPSTREAM_ENDPOINTS)
        if runtime.config.server.docs or endpoint not in DOCS_ENDPOINTS
    ]
    resources = _resources(endpoints, _operations(runtime))
    routes = [Route(path, resource) for path, resource in resources.items()]
    router = Router(routes, redirect_slashes=False, default=_find_nothing)
    return RequestMiddleware(SingleTasks(resources, router), runtime)


def create_metrics_app(runtime: Runtime) -> "MetricsApp":
    """Return the ASGI application of the metrics listener."""
    return MetricsApp(runtime)


class Resource:
    """What answers at one path, by method; HEAD is GET without the body."""

    def __init__(self, path: str, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = dict(operations)
        if "GET" in operations:
            self._operations["HEAD"] = operations["GET"]

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        exchange.route = self._path
        operation = self._operations.get(exchange.method)
        if operation is None:
            raise WrongMethod(self._operations)
        await exchange.answer(await operation(exchange))


class SingleTasks:
    """Finds the paths of single tasks without the router: they are most of all requests."""

    def __init__(self, resources: Mapping[str, Resource], others: ASGIApp) -> None:
        ending = "/{task_id}"
        self._others = others
        self._resources = {
            path.removesuffix(ending): resource
            for path, resource in resources.items()
            if path.endswith(ending)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        collection, _, task_id = scope["path"].rpartition("/")
        resource = self._resources.get(collection)
        if resource is None or not task_id:
            await self._others(scope, receive, send)
            return
        scope["path_params"] = {"task_id": task_id}
        await resource(scope, receive, send)


class MetricsApp:
    """Metrics and probes, apart from the public listener: no crowd of clients is in their way."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        probes = Probes(runtime, is_private=True)
        self._operations: Mapping[str, Operation] = {
            "/metrics": self._get_metrics,
            "/livez": probes.get_liveness,
            "/readyz": probes.get_readiness,
            "/healthz": probes.get_readiness,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await answer_other(scope, receive, send)
            return
        clock, ids = self._runtime.clock, self._runtime.ids
        exchange = Exchange(scope, receive, send, {}, ids.request_id(), clock.monotonic_s())
        try:
            answer = await self._answer(exchange)
        except GatewayError as error:
            answer = answer_error(error, exchange.request_id, exchange.method)
        await exchange.answer(answer)

    async def _answer(self, exchange: Exchange) -> Answer:
        operation = self._operations.get(exchange.scope["path"])
        if operation is None:
            raise _no_such_path()
        if exchange.method not in {"GET", "HEAD"}:
            raise WrongMethod(("GET", "HEAD"))
        return await operation(exchange)

    async def _get_metrics(self, _exchange: Exchange) -> Answer:
        return Answer(200, self._runtime.metrics.render(), content_type=CONTENT_TYPE.encode())


def _operations(runtime: Runtime) -> Mapping[tuple[str, str], Operation]:
    """Return what is done for each (surface, operation name) of the endpoints."""
    gate = BodyGate(runtime.config.server)
    surfaces = (seedance.open_surface(runtime.config.server.submit_message), ark.SURFACE)
    operations: dict[tuple[str, str], Operation] = {}
    for surface in surfaces:
        tasks = TaskOperations(runtime, surface, gate)
        operations |= {
            (surface.name, "submit_task"): tasks.submit_task,
            (surface.name, "get_task"): tasks.get_task,
            (surface.name, "list_tasks"): tasks.list_tasks,
            (surface.name, "cancel_task"): tasks.cancel_task,
            (surface.name, "get_limits"): tasks.get_limits,
        }
    probes, docs = Probes(runtime, is_private=False), Docs()
    return operations | {
        ("", "take_callback"): Callbacks(runtime).take_callback,
        ("", "get_liveness"): probes.get_liveness,
        ("", "get_readiness"): probes.get_readiness,
        ("", "get_description"): docs.get_description,
        ("", "get_docs_page"): docs.get_docs_page,
        ("", "get_docs_asset"): docs.get_docs_asset,
    }


def _resources(
    endpoints: Iterable[Endpoint], operations: Mapping[tuple[str, str], Operation]
) -> Mapping[str, Resource]:
    """Return what answers at each path."""
    by_path: dict[str, dict[str, Operation]] = {}
    for endpoint in endpoints:
        operation = operations[endpoint.surface, endpoint.operation]
        by_path.setdefault(endpoint.path, {})[endpoint.method] = operation
    return {path: Resource(path, methods) for path, methods in by_path.items()}


async def _find_nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise _no_such_path()


def _no_such_path() -> NotFound:
    return NotFound("The specified path is not found.")
