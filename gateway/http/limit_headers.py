"""What a client is told of its rate, with every answer to a submit that a rate applied to.

`RateLimit` and `RateLimit-Policy` are the fields of the IETF's draft; the three `x-ratelimit-*`
lines say the same in the words that SDKs know. Of several limits the tightest one is told.
"""

from gateway.domain.rates import WINDOW_S, RateDecision
from gateway.http.exchange import HeaderLine


def rate_headers(decision: RateDecision) -> tuple[HeaderLine, ...]:
    """Return the header lines of a decision; none if no rate is limited.

    The time told is the one until all of the rate is free again. When the next request may come is
    the matter of `Retry-After`, which a refusal has.
    """
    tightest = decision.tightest
    if tightest is None:
        return ()
    cap = tightest.limit.cap_per_minute
    left = tightest.remaining_count
    reset_s = tightest.reset_s
    return (
        (b"ratelimit-policy", b'"rpm";q=%d;w=%d' % (cap, WINDOW_S)),
        (b"ratelimit", b'"rpm";r=%d;t=%d' % (left, reset_s)),
        (b"x-ratelimit-limit-requests", b"%d" % cap),
        (b"x-ratelimit-remaining-requests", b"%d" % left),
        (b"x-ratelimit-reset-requests", b"%ds" % reset_s),
    )
