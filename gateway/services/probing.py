"""A probe of an upstream: one real task, the cheapest there is, to see which markers come back.

It goes the way of every submit: it is priced, held, sent once and metered, in a project that the
operator names. What is seen of it is kept with the account, and decides how its lists are judged.

A probe is a process of its own, beside a server or without one: it says that it lives while it
waits, or the server would take its submission for lost.
"""

import asyncio
import json
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.domain.attempts import Markers
from gateway.domain.billing import Quote
from gateway.domain.echoes import EchoReport, begin_report, note
from gateway.domain.keys import Principal
from gateway.domain.models import Family, Mode
from gateway.domain.projects import AuditEvent
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.domain.routing import RouteTable, UpstreamRoutes
from gateway.domain.tasks import TERMINAL, Task, TaskState
from gateway.errors import (
    ClientFault,
    GatewayError,
    InvalidRequest,
    ModelNotFound,
    PriceNotFound,
    StorageUnavailable,
    UpstreamFault,
)
from gateway.ports import Runtime, Upstream
from gateway.services import admin, auditing, restoring
from gateway.services.admitting import Routed, quote_request
from gateway.services.observing import look_at
from gateway.services.submission import Repeat, refuse_if_closed, submit_task
from gateway.storage import attempts, audit, meta, presence, tasks
from gateway.storage.meta import AccountFact

PROBE_KEY_ID: Final = "probe"
"""In the place of the API key, which a probe has none of."""
LOOK_S: Final = 3.0
WAIT_S_DEFAULT: Final = 900.0
_PROMPT: Final = "A paper boat on still water"
_PAGE_SIZE: Final = 100
_ANNOUNCE_S: Final = 3.0
_FORGOTTEN_MS: Final = 3_600_000
_ENDS: Final = frozenset(state.value for state in TERMINAL)


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """What a probe would send, and what that costs at most."""

    upstream: str
    credential: str
    project_id: str
    model: str
    body: dict[str, object]
    quote: Quote

    @property
    def cost_micros_max(self) -> int:
        return self.quote.price.cost.amount(self.quote.high)

    @property
    def charge_micros_max(self) -> int:
        return self.quote.price.charge.amount(self.quote.high)


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe came to. Without a report its submission was lost: the reconciler sees to it."""

    task: Task
    report: EchoReport | None


async def plan_probe(
    runtime: Runtime,
    project_name: str,
    *,
    upstream: str | None = None,
    credential: str | None = None,
    model: str | None = None,
) -> ProbePlan:
    """Return the cheapest task of an account, of `model` or of any that it is known to serve.

    Raises: InvalidRequest for a name that is not configured, NotFound (project), ModelNotFound,
    PriceNotFound.
    """
    routes = _find_routes(runtime, upstream)
    credential = credential or routes.credentials[0]
    if credential not in routes.credentials:
        raise InvalidRequest(f"The upstream {routes.name} has no credential {credential}.")
    project = await admin.get_project(runtime, project_name)
    models = [model] if model is not None else list(_list_models(runtime, routes))
    cheapest: ProbePlan | None = None
    refusal: ClientFault = ModelNotFound(f"The upstream {routes.name} serves no model.")
    for name in models:
        for body in _list_bodies(runtime, name):
            try:
                quoted = _quote(runtime, routes, credential, body)
            except ClientFault as error:  # such as a model without a price
                refusal = error
                continue
            plan = ProbePlan(routes.name, credential, project.id, name, body, quoted)
            if cheapest is None or plan.cost_micros_max < cheapest.cost_micros_max:
                cheapest = plan
    if cheapest is None:
        raise refusal
    return cheapest


async def run_probe(
    runtime: Runtime, actor: str, plan: ProbePlan, wait_s: float = WAIT_S_DEFAULT
) -> Probed:
    """Send the task, watch it until it has ended or `wait_s` is over, and keep what was seen.

    Each probe sends a task of its own, however soon after another. Raises: what `submit_task`
    raises; UpstreamFault if the upstream can't be watched to the end.
    """
    # What a server does when it starts: this is another process.
    await restoring.close_if_restored(runtime)
    if runtime.config.ledger.refuse_on_difference:
        await auditing.audit(runtime)
    refuse_if_closed(runtime)
    await _record(runtime, actor, plan)
    await _announce(runtime)
    return await _announcing(runtime, _send_and_watch(runtime, plan, wait_s))


async def _announce(runtime: Runtime) -> None:
    now_ms = runtime.clock.now_ms()
    await runtime.db.write(presence.see_process, runtime.process_id, now_ms, _FORGOTTEN_MS)


async def _announcing(runtime: Runtime, work: Coroutine[Any, Any, Probed]) -> Probed:
    """Say now and then that this process lives, until the work is done."""
    failures: list[Exception] = []
    async with asyncio.TaskGroup() as group:
        working = group.create_task(_catch(work, failures))
        while not (await asyncio.wait({working}, timeout=_ANNOUNCE_S))[0]:
            try:
                await _announce(runtime)
            except StorageUnavailable as error:  # the next time it may be there
                runtime.log.warning("worker.loop_failed", loop="announce", exc_info=error)
    if failures:
        raise failures[0]
    probed = working.result()
    assert probed is not None  # noqa: S101 - it failed, or came to something
    return probed


async def _catch(work: Coroutine[Any, Any, Probed], failures: list[Exception]) -> Probed | None:
    """Keep an expected failure as it is, and not in a group."""
    try:
        return await work
    except GatewayError as error:
        failures.append(error)
        return None


async def _send_and_watch(runtime: Runtime, plan: ProbePlan, wait_s: float) -> Probed:
    pinned = _pin(runtime, plan)
    principal = Principal(plan.project_id, PROBE_KEY_ID)
    request_id = runtime.ids.request_id()
    # Without a key, one that is like the last would be taken for its repetition.
    repeat = Repeat(idempotency_key=f"probe-{request_id}")
    task = (await submit_task(pinned, principal, plan.body, request_id, repeat)).task
    deadline_s = runtime.clock.monotonic_s() + wait_s
    task = await _await_outcome(runtime, task, deadline_s)
    attempt = await runtime.db.read(attempts.find, task.id)
    if task.upstream_task_id is None or attempt is None:
        return Probed(task, None)
    report = await _watch(runtime, task, attempt.markers, plan.model, deadline_s)
    stored = json.dumps(report.as_json())
    fact = (AccountFact.PROBE, stored)
    await runtime.db.write(meta.note_of_account, plan.upstream, plan.credential, *fact)
    return Probed((await _find(runtime, task)), report)


def _find_routes(runtime: Runtime, name: str | None) -> UpstreamRoutes:
    for routes in runtime.routing.upstreams:
        if name in {None, routes.name}:
            return routes
    raise InvalidRequest(f"There is no upstream {name}." if name else "No upstream is configured.")


def _list_models(runtime: Runtime, routes: UpstreamRoutes) -> Iterator[str]:
    """Yield the models that the upstream names; the vendor's own ones if it names none."""
    yield from routes.models
    if not routes.models:
        for family in runtime.catalog.families.values():
            yield from family.ids[:1]


def _list_bodies(runtime: Runtime, model: str) -> Iterator[dict[str, object]]:
    """Yield the shortest requests of a model, one for each resolution."""
    family = runtime.catalog.find(model)
    if family is None:
        raise ModelNotFound(f"The model {model} is not configured in this gateway.", param="model")
    rules = family.modes.get(Mode.T2V)
    resolutions = (rules.resolutions if rules is not None else ()) or family.resolutions
    for resolution in resolutions or (None,):
        body: dict[str, object] = {
            "model": model,
            "content": [{"type": "text", "text": _PROMPT}],
            "duration": family.duration.min_s,
            **_silence(family),
        }
        yield body if resolution is None else {**body, "resolution": resolution}


def _silence(family: Family) -> dict[str, object]:
    return {"generate_audio": False} if "generate_audio" in family.parameters else {}


def _quote(
    runtime: Runtime, routes: UpstreamRoutes, credential: str, body: dict[str, object]
) -> Quote:
    request: NormalizedRequest = normalize(
        body, runtime.catalog, runtime.config.validation.make_policy()
    )
    table = RouteTable((replace(routes, credentials=(credential,)),))
    route = table.choose_route(request.model)
    if route is None:
        raise PriceNotFound(f"No upstream serves {request.model}.")
    return quote_request(runtime, request, Routed(route), runtime.clock.now_ms())


def _pin(runtime: Runtime, plan: ProbePlan) -> Runtime:
    """Return the runtime with the account as the only route, and with every marker switched on."""
    routes = _find_routes(runtime, plan.upstream)
    table = RouteTable((replace(routes, credentials=(plan.credential,)),))
    upstreams = []
    for each in runtime.config.upstreams:
        marked = each.markers.model_copy(
            update={"seed": True, "expires_after": True, "safety_identifier": True}
        )
        upstreams.append(
            each.model_copy(update={"markers": marked}) if each.name == plan.upstream else each
        )
    config = runtime.config.model_copy(update={"upstreams": tuple(upstreams)})
    return replace(runtime, routing=table, config=config)


async def _await_outcome(runtime: Runtime, task: Task, deadline_s: float) -> Task:
    """Return the task once its submission has an outcome, or is lost, or the time is over."""
    while task.state is TaskState.RESERVED and runtime.clock.monotonic_s() < deadline_s:
        await runtime.clock.sleep(LOOK_S)
        task = await _find(runtime, task)
    return task


async def _watch(
    runtime: Runtime, task: Task, markers: Markers, model: str, deadline_s: float
) -> EchoReport:
    """Look at the task, alone and in the list, until it has ended and both have shown that."""
    upstream = runtime.upstreams[task.route.upstream]
    began_s = runtime.clock.monotonic_s()
    report = begin_report(runtime.clock.now_ms(), model, markers)
    while True:
        report, has_ended = await _look(runtime, upstream, task, markers, report, began_s)
        if has_ended or runtime.clock.monotonic_s() >= deadline_s:
            break
        await runtime.clock.sleep(LOOK_S / runtime.config.observer.time_scale)
    # Where no server runs nobody else would see its end.
    stored = await _find(runtime, task)
    if stored.state not in TERMINAL:
        await look_at(runtime, stored)
    return report


async def _look(
    runtime: Runtime,
    upstream: Upstream,
    task: Task,
    markers: Markers,
    report: EchoReport,
    began_s: float,
) -> tuple[EchoReport, bool]:
    """Return the report after one more look, and whether the task was seen to have ended."""
    credential, upstream_task_id = task.route.credential, task.upstream_task_id
    assert upstream_task_id is not None  # noqa: S101 - it was accepted

    def after_ms() -> int:
        return int((runtime.clock.monotonic_s() - began_s) * 1000)

    states = []
    try:
        found = await upstream.find_task(credential, upstream_task_id)
        if found is not None:
            report = note(report, markers, found, after_ms(), is_listed=False)
            states.append(found.status)
        if upstream.supports_list:
            page = await upstream.list_tasks(credential, page_num=1, page_size=_PAGE_SIZE)
            for listed in page.items:
                if listed.upstream_task_id == upstream_task_id:
                    report = note(report, markers, listed, after_ms(), is_listed=True)
                    states.append(listed.status)
    except UpstreamFault as error:  # the next look may fare better
        runtime.log.warning(
            "upstream.call_failed",
            upstream=upstream.name,
            code=error.public_code,
            reason=error.message,
        )
    ended = [status for status in states if status in _ENDS]
    return report, len(ended) == 1 + upstream.supports_list


async def _find(runtime: Runtime, task: Task) -> Task:
    stored = await runtime.db.read(tasks.find, task.id)
    return task if stored is None else stored.task


async def _record(runtime: Runtime, actor: str, plan: ProbePlan) -> None:
    now_ms = runtime.clock.now_ms()
    subject = f"{plan.upstream}/{plan.credential}"
    event = AuditEvent(
        runtime.ids.new("evt", now_ms), now_ms, actor, "upstream.probed", subject, plan.model
    )
    await runtime.db.write(audit.add, event)
