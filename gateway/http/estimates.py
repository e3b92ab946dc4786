"""The answers that speak of money: what a request would cost, and what a key has left."""

from collections.abc import Sequence
from typing import Final

from gateway.domain.limits import Metric
from gateway.errors import GatewayError
from gateway.http.errors import RefusedByRate, error_object
from gateway.http.rendering import dump_json
from gateway.services.estimating import Estimate
from gateway.services.limiting import LimitUse

_UNIT_OF: Final = {Metric.MONEY: "micros", Metric.RPM: "submits"}


def render_estimate(
    estimate: Estimate, request_id: str, refused_key: GatewayError | None = None
) -> bytes:
    """Return the body of a dry run. An Idempotency-Key that is none refuses a submit first."""
    quote, price = estimate.quote, estimate.quote.price
    refusal = refused_key or estimate.refusal
    if refusal is None and estimate.refused_rate is not None:
        refusal = RefusedByRate(estimate.refused_rate)
    return dump_json(
        {
            "request": estimate.request,
            "tokens": {"low": quote.low.tokens, "high": quote.high.tokens},
            "charge_micros": {
                "low": price.charge.amount(quote.low),
                "high": price.charge.amount(quote.high),
            },
            "currency": price.charge_currency,
            "price_version": price.version,
            "would_refuse": None if refusal is None else error_object(refusal, request_id),
        }
    )


def render_limits(used: Sequence[LimitUse], currency: str) -> bytes:
    """Return the body that tells a key its limits."""
    return dump_json({"currency": currency, "limits": [limit_object(each) for each in used]})


def limit_object(used: LimitUse) -> dict[str, object]:
    """Return one limit with its use; amounts are whole numbers of `unit`."""
    limit = used.limit
    reset_ms = used.resets_at_ms
    return {
        "scope": limit.account.scope.value,
        "metric": limit.metric.value,
        "window": None if limit.window is None else limit.window.value,
        "unit": _UNIT_OF.get(limit.metric, limit.metric.value),
        "cap": limit.cap,
        "spent": used.spent,
        "held": used.held,
        "left": used.left,
        "resets_at": None if reset_ms is None else reset_ms // 1000,
    }
