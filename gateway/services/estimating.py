"""Estimates: what a request would cost, and whether it would be let in. Nothing is sent or held."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.domain.billing import Quote
from gateway.domain.keys import Principal
from gateway.domain.rates import RateDecision
from gateway.domain.requests import NormalizedRequest
from gateway.domain.stored import stored_form
from gateway.errors import GatewayError, GatewayFault
from gateway.ports import Runtime
from gateway.services import admitting, limiting
from gateway.services.submission import normalize_request, refuse_if_closed
from gateway.storage import admission as admissions

if TYPE_CHECKING:
    from gateway.domain.tasks import Task


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request may cost at least and at most; `request` is the form that would be sent."""

    request: Mapping[str, object]
    quote: Quote
    warnings: tuple[str, ...] = ()
    refusal: GatewayError | None = None
    """What a submit would be told now, if it would not be let in."""
    refused_rate: RateDecision | None = None


async def estimate_task(
    runtime: Runtime, principal: Principal, body: Mapping[str, object]
) -> Estimate:
    """Return the estimate of a body.

    Raises: what a submit raises for a body that is not valid, or that has no route or no price.
    """
    request = await normalize_request(runtime, principal, body)
    routed = await admitting.choose_route(runtime, principal, request)
    task = admitting.new_task(runtime, principal, request, routed.route)
    quoted = admitting.quote_request(runtime, request, routed, task.created_at_ms)
    refused_rate = await _find_refusing_rate(runtime, principal)
    refusal = None
    if refused_rate is None:
        refusal = _find_closed(runtime) or await _find_refusal(runtime, request, task, quoted)
    warnings = tuple(warning.message for warning in request.warnings)
    return Estimate(_shown(request), quoted, warnings, refusal, refused_rate)


def _shown(request: NormalizedRequest) -> Mapping[str, object]:
    return stored_form(request)


def _find_closed(runtime: Runtime) -> GatewayError | None:
    try:
        refuse_if_closed(runtime)
    except GatewayFault as error:
        return error.with_traceback(None)
    return None


async def _find_refusal(
    runtime: Runtime, request: NormalizedRequest, task: "Task", quoted: Quote
) -> GatewayError | None:
    asked = admitting.reserve(runtime, task, quoted)
    verdict = await runtime.db.read(
        admissions.check,
        task,
        asked,
        admitting.chooser(runtime.config),
        admitting.bounds_of(runtime, runtime.clock.now_ms()),
    )
    if verdict is None:
        return None
    return admitting.describe_refusal(runtime, verdict, request, asked)


async def _find_refusing_rate(runtime: Runtime, principal: Principal) -> RateDecision | None:
    standings = tuple(await limiting.look_at_rates(runtime, principal))
    decision = RateDecision(all(each.remaining_count for each in standings), standings)
    return None if decision.is_allowed else decision
