"""Admission: what a request asks for, what it may cost, and whether it is let in.

`prepare` does all that needs no lock: route, quote, markers. `admit` is the transaction. `refuse`
says to the client which limit left no room, and what to do about it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from gateway.config import Config
from gateway.domain import callbacks, quotes
from gateway.domain.attempts import Attempt, Shape
from gateway.domain.balances import Exceeded
from gateway.domain.billing import Quote, Reservation
from gateway.domain.keys import Principal
from gateway.domain.limit_defaults import effective_limits
from gateway.domain.limits import (
    Account,
    Limit,
    LimitSetting,
    Metric,
    Window,
    format_cap,
    format_time,
    window_end_ms,
    window_start_ms,
)
from gateway.domain.markers import MarkerPolicy, make_markers
from gateway.domain.models import OPEN_ENDED
from gateway.domain.quotes import UNKNOWN_DRAFT, DraftFacts, OpenEnded, read_draft_facts
from gateway.domain.requests import NormalizedRequest
from gateway.domain.stored import fingerprint, hash_texts, stored_form
from gateway.domain.tasks import Route, Task, TaskId, TaskState
from gateway.errors import (
    BudgetExceeded,
    GatewayError,
    IdempotencyKeyReused,
    ModelNotFound,
    SubmissionsUnconfirmed,
    TaskNotFound,
    TooManyTasks,
)
from gateway.ports import Runtime
from gateway.services.moves import dump_request
from gateway.services.sending import RETRY_DELAY_S_MAX, Parcel
from gateway.services.status import get_task, no_such_task
from gateway.services.sweeping import ALIVE_S, keys_since_ms
from gateway.storage import admission as admissions
from gateway.storage.admission import Admission, Bounds, KeyReused, TooManyUnknown, Verdict
from gateway.storage.idempotency import Claim

if TYPE_CHECKING:
    from sqlalchemy import Connection

ROUTE: Final = "submit"
"""Of idempotency keys: one operation, whatever surface it is asked for on."""
_DAY_MS: Final = 86_400_000
_LOST_MARGIN_S: Final = 30.0
_UNKNOWN_RETRY_S: Final = 30
_TASKS_RETRY_S: Final = 10


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request goes, and what is known of the draft it builds on, if it does."""

    route: Route
    draft_task_id: str | None = None
    """The upstream's id of it."""
    draft: DraftFacts = UNKNOWN_DRAFT


async def prepare(
    runtime: Runtime,
    principal: Principal,
    request: NormalizedRequest,
    *,
    idempotency_key: str | None,
    is_retry: bool,
) -> tuple[Admission, Parcel]:
    """Return what is to be admitted, and what is sent once it is.

    Raises: ModelNotFound, PriceNotFound, TaskNotFound (the draft).
    """
    routed = await choose_route(runtime, principal, request)
    task = new_task(runtime, principal, request, routed.route)
    quoted = quote_request(runtime, request, routed, task.created_at_ms)
    days = runtime.config.retention.request_days
    stored = stored_form(request)
    text = dump_request(stored if days else hash_texts(stored))
    said = fingerprint(request)
    attempt, parcel = _new_attempt(runtime, task, request, said, routed.draft_task_id)
    admission = Admission(
        task,
        text,
        task.created_at_ms + days * _DAY_MS if days else None,
        reserve(runtime, task, quoted),
        attempt,
        claim_of(principal, idempotency_key, said),
        is_repeat=is_retry,
    )
    return admission, parcel


def claim_of(principal: Principal, idempotency_key: str | None, said: str) -> Claim | None:
    """Return the claim to the key of a request whose fingerprint is `said`; None without a key."""
    if idempotency_key is None:
        return None
    return Claim(principal.project_id, ROUTE, idempotency_key, said)


def quote_request(
    runtime: Runtime, request: NormalizedRequest, routed: Routed, at_ms: int
) -> Quote:
    """Return what the request may cost where it goes. Raises PriceNotFound."""
    return quotes.quote_request(
        request,
        routed.route.upstream,
        at_ms,
        prices=runtime.prices,
        catalog=runtime.catalog,
        open_ended=OpenEnded(runtime.config.holds.open_ended),
        draft=routed.draft,
    )


def reserve(runtime: Runtime, task: Task, quoted: Quote) -> Reservation:
    """Return the hold of a task that is about to be admitted."""
    zone = zone_of(runtime.config)
    return Reservation(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        held=quoted.held,
        price=quoted.price,
        at_ms=task.created_at_ms,
        day_start_ms=window_start_ms(Window.DAY, task.created_at_ms, zone),
        month_start_ms=window_start_ms(Window.MONTH, task.created_at_ms, zone),
    )


def zone_of(config: Config) -> ZoneInfo:
    """Return the time zone in which days and months begin."""
    return ZoneInfo(config.finance.timezone)


def admit(conn: "Connection", admission: Admission, config: Config, bounds: Bounds) -> Verdict:
    """One transaction: write the task with its hold, unless something speaks against it."""
    return admissions.admit(conn, admission, chooser(config), bounds)


def chooser(config: Config) -> admissions.ChooseLimits:
    """Return how limits set by command and limits of the configuration go together."""
    defaults = config.limits.defaults()

    def choose(accounts: Sequence[Account], stored: Sequence[LimitSetting]) -> Sequence[Limit]:
        return effective_limits(accounts, stored, defaults)

    return choose


def bounds_of(runtime: Runtime, now_ms: int) -> Bounds:
    """Return what is measured at `now_ms`."""
    settings = runtime.config.submit
    return Bounds(
        unknown_credential_max=settings.max_unknown,
        unknown_key_max=settings.max_unknown_key,
        keys_since_ms=keys_since_ms(runtime, now_ms),
        joins_since_ms=now_ms - int(settings.join_s * 1000),
        now_ms=now_ms,
        alive_for_ms=int(ALIVE_S * 1000),
    )


def refuse(
    runtime: Runtime, verdict: Verdict, request: NormalizedRequest, asked: Reservation
) -> GatewayError:
    """Return what the client is told of a verdict that lets nothing in, and count it."""
    if isinstance(verdict, Exceeded):
        scope, metric = verdict.limit.account.scope, verdict.limit.metric
        runtime.metrics.limit_refusals.add(scope.value, metric.value)
    return describe_refusal(runtime, verdict, request, asked)


def describe_refusal(
    runtime: Runtime, verdict: Verdict, request: NormalizedRequest, asked: Reservation
) -> GatewayError:
    """Return what a client is told of a verdict that does not let in what it asked for."""
    if isinstance(verdict, KeyReused):
        return IdempotencyKeyReused(
            "The Idempotency-Key was used with another request body: use a new one for it.",
            param="Idempotency-Key",
        )
    if isinstance(verdict, TooManyUnknown):
        whose = "this API key" if verdict.is_of_key else "the upstream account"
        return SubmissionsUnconfirmed(
            f"Too many submissions of {whose} wait to be confirmed by the upstream; nothing was "
            "sent or held for this one.",
            retry_after_s=_UNKNOWN_RETRY_S,
        )
    assert isinstance(verdict, Exceeded)  # noqa: S101 - the other verdicts are no refusals
    return _describe_exceeded(
        runtime,
        verdict,
        currency=asked.price.charge_currency,
        is_cut_by_length=request.duration_s == OPEN_ENDED and _bears_length(asked, verdict.limit),
    )


def _bears_length(asked: Reservation, limit: Limit) -> bool:
    """Whether what is asked of a limit follows from the length of the video."""
    if limit.metric is not Metric.MONEY:
        return limit.metric in {Metric.SECONDS, Metric.TOKENS}
    whatever_length = replace(asked.held, tokens=0, seconds=0)
    return asked.price.charge.amount(whatever_length) < asked.hold_micros


def _describe_exceeded(
    runtime: Runtime, exceeded: Exceeded, *, currency: str, is_cut_by_length: bool
) -> GatewayError:
    """Return the 429 of a limit of tasks in progress, or the 402 of a spent budget."""
    limit = exceeded.limit
    whose = f"the limit of the {limit.account.scope.word}"
    if limit.metric is Metric.TASKS:
        return TooManyTasks(
            f"Too many tasks are in progress: {exceeded.held} of {limit.cap} by {whose}.",
            param="",
            retry_after_s=_TASKS_RETRY_S,
        )
    assert limit.window is not None  # noqa: S101 - a budget has a window
    end_ms = window_end_ms(limit.window, runtime.clock.now_ms(), zone_of(runtime.config))
    reset = "never resets" if end_ms is None else f"resets at {format_time(end_ms)}"
    per = "" if limit.window is Window.EVER else f" per {limit.window.value}"
    unit = f" {currency}" if limit.metric is Metric.MONEY else ""
    cap, *words = (
        f"{name}{format_cap(limit.metric, amount)}{unit}"
        for name, amount in (
            ("", limit.cap),
            ("asked ", exceeded.asked),
            ("spent ", exceeded.spent),
            ("held ", exceeded.held),
        )
    )
    advice = " A fixed duration lowers what is held: it was left open." if is_cut_by_length else ""
    return BudgetExceeded(
        f"The budget is used up: {limit.metric.value}{per}, {cap} by {whose}; {', '.join(words)}; "
        f"it {reset}.{advice}",
        param="",
    )


async def choose_route(
    runtime: Runtime, principal: Principal, request: NormalizedRequest
) -> Routed:
    """Return where the request goes; one that builds on a draft goes where that was made.

    Raises: ModelNotFound, TaskNotFound (the draft).
    """
    if request.draft_task_id is None:
        route = runtime.routing.choose_route(request.model)
        if route is None:
            raise ModelNotFound(
                f"The model {request.model} is not configured in this gateway: no upstream serves "
                "it. Setting: upstreams.",
                param="model",
            )
        return Routed(route)
    try:
        entry = await get_task(runtime, principal, request.draft_task_id)
    except TaskNotFound as error:
        raise no_such_task(request.draft_task_id, request.draft_task_param) from error
    draft = entry.task
    route = runtime.routing.pin_route(request.model, draft.route.upstream, draft.route.credential)
    if route is None or draft.upstream_task_id is None:
        raise no_such_task(request.draft_task_id, request.draft_task_param)
    stored = json.loads(entry.echo) if entry.echo is not None else {}
    return Routed(route, draft.upstream_task_id, read_draft_facts(stored, draft.fields or {}))


def new_task(
    runtime: Runtime, principal: Principal, request: NormalizedRequest, route: Route
) -> Task:
    """Return the task as it would be admitted now."""
    now_ms = runtime.clock.now_ms()
    expiry_s = request.parameters.execution_expires_after
    if expiry_s is None:
        expiry_s = runtime.config.submit.default_expiry_s
    upstream = runtime.config.upstream(route.upstream)
    retries_s = runtime.config.submit.not_sent_retries_max * (
        upstream.connect_s_max + RETRY_DELAY_S_MAX
    )
    longest_s = upstream.submit_s_max + retries_s + _LOST_MARGIN_S
    return Task(
        id=TaskId(runtime.ids.task_id(now_ms)),
        project_id=principal.project_id,
        key_id=principal.key_id,
        model=request.model,
        family=request.family.name,
        route=route,
        state=TaskState.RESERVED,
        version=1,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        submit_deadline_at_ms=now_ms + int(longest_s * 1000),
        expires_at_ms=now_ms + expiry_s * 1000,
        service_tier=request.parameters.service_tier or "default",
    )


def _new_attempt(
    runtime: Runtime,
    task: Task,
    request: NormalizedRequest,
    said: str,
    draft_task_id: str | None,
) -> tuple[Attempt, Parcel]:
    """Return the attempt as it is stored, and what of it goes upstream."""
    upstream = runtime.config.upstream(task.route.upstream)
    settings = upstream.markers
    policy = MarkerPolicy(settings.seed, settings.expires_after, settings.safety_identifier)
    markers = make_markers(request, runtime.entropy, policy)
    callback_url, stored = None, markers
    if runtime.config.server.public_url is not None and upstream.callbacks:
        token = callbacks.make_token(runtime.entropy)
        callback_url = runtime.config.server.public_url + callbacks.callback_path(token)
        stored = replace(markers, callback_token=callbacks.hash_token(token))
    duration_s = request.duration_s
    attempt = Attempt(
        task_id=task.id,
        project_id=task.project_id,
        key_id=task.key_id,
        fingerprint=said,
        owner=runtime.process_id,
        client_owner=runtime.process_id,
        created_at_ms=task.created_at_ms,
        shape=Shape(
            task.route.deployment,
            request.resolution,
            request.ratio,
            None if duration_s == OPEN_ENDED else duration_s,
        ),
        markers=stored,
        callback_url=request.callback_url,
    )
    return attempt, Parcel(markers, callback_url, draft_task_id)
