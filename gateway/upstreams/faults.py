"""Upstreams' refusals: finding the error object in an answer, and saying whose fault it is.

A submit is refused only by an answer that says in JSON what is wrong, be it in an error object or
in plain words. A page of text or HTML leaves it open, also with 429: it may come from a balancer
that gave up on a request, or on the second try of one, which its backend goes on to serve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.errors import (
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamFault,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.answers import (
    Answer,
    parse_json,
    read_request_id,
    read_retry_after,
)
from gateway.upstreams.cleaning import clean_code, clean_param, clean_text

_NESTING_MAX: Final = 5
_EMBEDDED_CHARS_MAX: Final = 64 * 1024

# 408 and 409 are absent: a balancer may say them of a request that its backend has served.
_DEFINITE: Final = frozenset({400, 401, 402, 403, 404, 413, 422, 429, 451})
_ACCOUNT_STATUSES: Final = frozenset({401, 402, 403})
_KINDS: Final[Mapping[int, str]] = {
    400: "BadRequest",
    404: "NotFound",
    409: "Conflict",
    429: "TooManyRequests",
}
_CODES: Final[Mapping[int, str]] = {
    400: "InvalidParameter",
    404: "NotFound",
    429: "RateLimitExceeded",
}

# The client's own request is at fault, whatever the status that a reseller wraps around it.
_REQUEST_CODES: Final = (
    "MissingParameter",
    "InvalidParameter",
    "InvalidArgumentError",
    "InvalidImageURL",
    "InvalidEndpointOrModel.NotFound",
    "UnsupportedModel",
    "NotFound",
)
_MODEL_CODES: Final = ("InvalidEndpointOrModel", "ModelNotFound", "model_not_found")
_MODERATION_WORDS: Final = (
    "SensitiveContentDetected",
    "RiskDetection",
    "PrivacyInformation",
    "ContentSecurityDetection",
)
# Our account there is at fault: an operator must act, and a client can't.
_ACCOUNT_CODES: Final = (
    "AuthenticationError",
    "AuthN_",
    "InvalidAccountStatus",
    "InvalidSubscription",
    "AccountOverdueError",
    "AccessDenied",
    "OperationDenied",
    "ModelNotOpen",
    "SetLimitExceeded",
    "InvalidEndpointOrModel.ModelIDAccessDisabled",
    "InvalidEndpoint.ClosedEndpoint",
    "insufficient_user_quota",
)
# `QuotaExceeded` is also said of a full queue, which passes by itself.
_TRIAL_WORDS: Final = ("free trial", "trial quota", "free quota", "activate", "\u8bd5\u7528")
# {"code": 0, "message": "ok"} is how resellers say that nothing is wrong.
_FINE_CODES: Final = frozenset({"", "0", "200", "201", "202", "success", "ok"})
_NO_MODEL: Final = "The model or endpoint does not exist or you do not have access to it."
_GONE_CODES: Final = frozenset({"task_not_exist", "task_not_found"})

_Fault = TypeVar("_Fault", bound=UpstreamFault)


@dataclass(frozen=True, slots=True)
class ErrorObject:
    """An upstream's error as it wrote it: raw, not yet fit for anybody's eyes."""

    code: str
    message: str
    param: str = ""
    kind: str = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.code and self.message)


def find_error(answer: Answer) -> ErrorObject | None:
    """Return the error object in an answer's body, the innermost where resellers nest them."""
    try:
        value = parse_json(answer.body)
    except ValueError:
        return None
    return find_error_object(value)


def find_error_object(value: object, depth: int = _NESTING_MAX) -> ErrorObject | None:
    """Return the innermost error object of `value`.

    Known envelopes: `{"error": {...}}`, `{"ResponseMetadata": {"Error": {...}}}`, and
    `{"code", "message", "data"}` of resellers, whose message may be the vendor's own envelope.
    """
    if depth == 0 or not isinstance(value, Mapping):
        return None
    metadata = value.get("ResponseMetadata")
    for inner in (
        value.get("error"),
        metadata.get("Error") if isinstance(metadata, Mapping) else 0,
    ):
        if isinstance(inner, Mapping):
            found = find_error_object(inner, depth - 1) or _read_fields(inner)
            if found is not None:
                return _embedded_error(found.message, depth) or found
    flat = _read_fields(value)
    if flat is not None and flat.message and flat.code.lower() not in _FINE_CODES:
        return _embedded_error(flat.message, depth) or flat
    return find_error_object(value.get("data"), depth - 1)


def _read_fields(value: Mapping[object, object]) -> ErrorObject | None:
    def text(*names: str) -> str:
        found = next((value[name] for name in names if name in value), "")
        is_word = isinstance(found, str | int) and not isinstance(found, bool)
        return str(found) if is_word else ""

    error = ErrorObject(
        code=text("code", "Code"),
        message=text("message", "Message"),
        param=text("param"),
        kind=text("type"),
    )
    return error if error.code or error.message else None


def _embedded_error(message: str, depth: int) -> ErrorObject | None:
    # Only a message that is JSON as a whole: vendors quote in their sentences what clients sent,
    # and a client must not be able to write our errors.
    message = message.strip()
    if not message.startswith("{") or len(message) > _EMBEDDED_CHARS_MAX:
        return None
    try:
        value = parse_json(message.encode())
    except ValueError:
        return None
    return find_error_object(value, depth - 1)


def _find_plain_words(answer: Answer) -> ErrorObject | None:
    """Return what `{"error": "words"}` or `{"message": "words"}` says, beside no id of a task."""
    try:
        value = parse_json(answer.body)
    except ValueError:
        return None
    if not isinstance(value, Mapping) or "id" in value or "task_id" in value:
        return None
    words, message = (
        text if isinstance(text, str) else "" for text in map(value.get, ("error", "message"))
    )
    flat = _read_fields(value)
    code = flat.code if flat is not None else ""
    message = message or words
    if not message.strip() or (code and code.lower() in _FINE_CODES):
        return None
    return _embedded_error(message, _NESTING_MAX) or ErrorObject(code or words, message)


def submission_fault(answer: Answer, *, definite_5xx: bool) -> UpstreamFault:
    """Return what a complete answer without a task id says about a submit."""
    error = find_error(answer)
    status = answer.status
    is_definite = status in _DEFINITE
    if error is None and is_definite:
        error = _find_plain_words(answer)
    if error is not None:
        is_definite = is_definite or (definite_5xx and status >= 500 and error.is_complete)
        if is_definite:
            return note_request_id(_refusal(answer, error), answer)
    word = clean_code(error.code) if error is not None else ""
    fault = UpstreamAmbiguous(
        f"The upstream answered {status} {word}".rstrip() + " to a submission."
    )
    return note_request_id(fault, answer)


def read_fault(answer: Answer) -> UpstreamFault:
    """Return what an answer that is no success says about a read or a cancel, which are free."""
    return note_request_id(_judge_read(answer), answer)


def note_request_id(fault: _Fault, answer: Answer) -> _Fault:
    """Return `fault`, with the upstream's id of the request for the operator's log."""
    request_id = read_request_id(answer)
    if request_id is not None:
        fault.add_note(f"upstream request id {request_id}")
    return fault


def _judge_read(answer: Answer) -> UpstreamFault:
    error = find_error(answer)
    status = answer.status
    if status in _ACCOUNT_STATUSES or (status in _DEFINITE and error is not None):
        return _refusal(answer, error or ErrorObject("", ""))
    if status in {409, 429}:
        return _rejected(answer, error or ErrorObject("", ""), status)
    if status in {408, 504}:
        return UpstreamTimeout("The upstream did not answer in time.")
    return UpstreamUnavailable(
        f"The upstream answered {status}.", retry_after_s=read_retry_after(answer)
    )


def says_task_gone(answer: Answer) -> bool:
    """Whether an answer to a read says, in the vendor's words, that there is no such task.

    A 404 without an error object is a wrong path or a front proxy, and no word about the task.
    """
    if answer.status not in {400, 404}:
        return False
    error = find_error(answer)
    return error is not None and (answer.status == 404 or error.code in _GONE_CODES)


def _refusal(answer: Answer, error: ErrorObject) -> UpstreamFault:
    if _is_request_fault(error.code):
        status = 400 if answer.status in _ACCOUNT_STATUSES else answer.status
        return _rejected(answer, error, status)
    if _is_account_fault(answer.status, error):
        fault = UpstreamAccount(
            "The upstream refuses this gateway's own account; the operator has to act."
        )
        # For the operator's log; clients get the message alone.
        fault.add_note(f"upstream said {answer.status} {clean_code(error.code)}".rstrip())
        return fault
    return _rejected(answer, error, answer.status)


def _rejected(answer: Answer, error: ErrorObject, status: int) -> UpstreamRejected:
    # The upstream's words about a model name our deployment, of which clients know nothing.
    is_of_model = error.code.startswith(_MODEL_CODES)
    message = _NO_MODEL if is_of_model else clean_text(error.message)
    return UpstreamRejected(
        message or "The upstream refused the request.",
        code=clean_code(error.code) or _CODES.get(status, "UpstreamRejected"),
        status=status,
        kind=clean_code(error.kind)
        or _KINDS.get(status, "BadRequest" if status < 500 else "InternalServerError"),
        param="model" if is_of_model else clean_param(error.param),
        retry_after_s=read_retry_after(answer) if status in {429, 503} else None,
    )


def _is_request_fault(code: str) -> bool:
    return code.startswith(_REQUEST_CODES) or any(word in code for word in _MODERATION_WORDS)


def _is_account_fault(status: int, error: ErrorObject) -> bool:
    if status in _ACCOUNT_STATUSES or error.code.startswith(_ACCOUNT_CODES):
        return True
    message = error.message.lower()
    return error.code == "QuotaExceeded" and any(word in message for word in _TRIAL_WORDS)
