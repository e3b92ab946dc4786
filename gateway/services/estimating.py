"""Estimates: what a request would cost, and whether it would be let in. Nothing is sent or held."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.domain.billing import Quote
from gateway.domain.keys import Principal
from gateway.domain.rates import RateDecision
from gateway.domain.stored import fingerprint, stored_form
from gateway.errors import GatewayError, GatewayFault
from gateway.ports import Runtime
from gateway.services import admitting, limiting
from gateway.services.submission import Warn, normalize_request, refuse_if_closed
from gateway.storage import admission as admissions
from gateway.storage.idempotency import Claim

if TYPE_CHECKING:
    from gateway.domain.requests import NormalizedRequest
    from gateway.domain.tasks import Task


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request may cost at least and at most; `request` is the form that would be sent."""

    request: Mapping[str, object]
    quote: Quote
    refusal: GatewayError | None = None
    """What a submit would be told now, if it would not be let in."""
    refused_rate: RateDecision | None = None


async def estimate_task(
    runtime: Runtime,
    principal: Principal,
    body: Mapping[str, object],
    *,
    idempotency_key: str | None,
    warn: Warn,
) -> Estimate:
    """Return the estimate of a body. What a submit would warn of is told to `warn`.

    A submit with a key that stands for the same request already would be answered that one's task:
    nothing refuses it but a rate, or a gateway that is closed. The figures are those of a new task.

    Raises: what a submit raises for a body that is not valid, or that has no route or no price.
    """
    request = await normalize_request(runtime, principal, body, warn)
    routed = await admitting.choose_route(runtime, principal, request)
    task = admitting.new_task(runtime, principal, request, routed.route)
    quoted = admitting.quote_request(runtime, request, routed, task.created_at_ms)
    # In the order in which a submit asks.
    refusal, refused_rate = _find_closed(runtime), None
    if refusal is None:
        refused_rate = await _find_refusing_rate(runtime, principal)
    if refusal is None and refused_rate is None:
        claim = admitting.claim_of(principal, idempotency_key, fingerprint(request))
        refusal = await _find_refusal(runtime, request, task, quoted, claim)
    return Estimate(stored_form(request), quoted, refusal, refused_rate)


def _find_closed(runtime: Runtime) -> GatewayError | None:
    try:
        refuse_if_closed(runtime)
    except GatewayFault as error:
        return error.with_traceback(None)
    return None


async def _find_refusal(
    runtime: Runtime,
    request: "NormalizedRequest",
    task: "Task",
    quoted: Quote,
    claim: Claim | None,
) -> GatewayError | None:
    asked = admitting.reserve(runtime, task, quoted)
    verdict = await runtime.db.read(
        admissions.check,
        task,
        asked,
        admitting.chooser(runtime.config),
        admitting.bounds_of(runtime, runtime.clock.now_ms()),
        claim=claim,
    )
    if verdict is None:
        return None
    return admitting.describe_refusal(runtime, verdict, request, asked)


async def _find_refusing_rate(runtime: Runtime, principal: Principal) -> RateDecision | None:
    standings = tuple(await limiting.look_at_rates(runtime, principal))
    decision = RateDecision(all(each.remaining_count for each in standings), standings)
    return None if decision.is_allowed else decision
