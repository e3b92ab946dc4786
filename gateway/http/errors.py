"""From an error to an answer: the vendor's envelope, on both surfaces.

Besides the middleware, which logs what is unexpected, nothing else turns an error into an outcome.
docs/errors.md lists the codes for users.
"""

import re
from collections.abc import Iterable
from typing import Final

from gateway.domain.rates import RateDecision
from gateway.errors import (
    ClientFault,
    Draining,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    Overloaded,
    RateLimited,
    Reconciling,
    StorageUnavailable,
    SubmissionsUnconfirmed,
    SubmissionUnconfirmed,
    UpstreamAccount,
    UpstreamRejected,
    UpstreamUnavailable,
)
from gateway.http.exchange import Answer, HeaderLine
from gateway.http.rendering import dump_json

RETRY_AFTER_S: Final = 5
"""Told with every 429 and 503 that knows nothing better."""
MESSAGE_CHARS_MAX: Final = 4000

_INTERNAL_MESSAGE: Final = "The gateway made a mistake, which was logged under the request id."
_UPSTREAM_REQUEST_ID: Final = re.compile(r"request id:\s{0,4}\S{1,200}\Z", re.IGNORECASE)
_CLOSING: Final = frozenset({408, 413})
"""The rest of such a body must not be taken for the next request."""
_TYPE_BY_STATUS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    402: "PaymentRequired",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    422: "UnprocessableEntity",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}

_BEFORE_PAYING: Final = (
    ClientFault,
    UpstreamRejected,
    UpstreamUnavailable,
    Draining,
    Reconciling,
    Overloaded,
    StorageUnavailable,
    SubmissionsUnconfirmed,
)
"""After these, nothing was bought: a second submit is safe. (A store that fails after the submit
is never told to the client, which gets its id.) An error that is not named here counts
as unsafe, so that a new one is so until somebody has thought about it."""


class WrongMethod(MethodNotAllowed):
    """The method is not one of `allowed`; the answer lists them in `Allow`, too."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"The method is not allowed here; allowed are {self.allowed}.")


class RefusedByRate(RateLimited):
    """More submits than a rate allows."""

    def __init__(self, decision: RateDecision) -> None:
        tightest = decision.tightest
        assert tightest is not None  # noqa: S101 - without a rate nothing is refused by one
        whose = tightest.limit.account.scope.word
        super().__init__(
            f"Too many requests: the limit of the {whose} is {tightest.limit.cap_per_minute} "
            f"submits per minute; the next is let through in {tightest.retry_after_s} s.",
            retry_after_s=tightest.retry_after_s,
        )


def as_gateway_error(error: Exception) -> GatewayError:
    """Return what a client is told of `error`; of a defect of ours, only that it happened."""
    if isinstance(error, GatewayError) and not isinstance(error, InternalError):
        return error
    return InternalError(_INTERNAL_MESSAGE)


def answer_error(
    error: GatewayError, request_id: str, method: str, *, closes: bool = False
) -> Answer:
    """Return the answer to a request that `error` ended."""
    status = status_of(error)
    body = {"error": error_object(error, request_id)}
    headers = _headers_of(error, status, method)
    if closes or status in _CLOSING or isinstance(error, Draining):
        headers.append((b"connection", b"close"))
    return Answer(status, dump_json(body), tuple(headers))


def error_object(error: GatewayError, request_id: str) -> dict[str, str]:
    """Return what the envelope holds."""
    return {
        "code": error.public_code,
        "message": _message_of(error, request_id),
        "param": error.param,
        "type": error.public_type or _TYPE_BY_STATUS.get(status_of(error), ""),
    }


def status_of(error: GatewayError) -> int:
    """Return the status to send: an upstream's own, if it is an error's at all."""
    return error.public_status if 400 <= error.public_status <= 599 else 502


def is_safe_to_repeat(error: GatewayError) -> bool:
    """Whether a submit that ended in `error` bought nothing."""
    return isinstance(error, _BEFORE_PAYING)


def _message_of(error: GatewayError, request_id: str) -> str:
    """Return the message with our request id at its end, in place of an upstream's."""
    text = error.message[:MESSAGE_CHARS_MAX].rstrip()
    text = _UPSTREAM_REQUEST_ID.sub("", text).rstrip(" (\n\t")
    if not text.endswith((".", "!", "?")):
        text += "."
    return f"{text} Request id: {request_id}"


def _headers_of(error: GatewayError, status: int, method: str) -> list[HeaderLine]:
    headers: list[HeaderLine] = []
    retry_after_s = error.retry_after_s
    if retry_after_s is None and (status in {429, 503} or isinstance(error, SubmissionUnconfirmed)):
        retry_after_s = RETRY_AFTER_S
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(retry_after_s, 0)))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", error.allowed.encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    is_unsafe = method == "POST" and not is_safe_to_repeat(error)
    if is_unsafe or isinstance(error, UpstreamAccount):
        headers.append((b"x-should-retry", b"false"))
    return headers
