"""The error tree. The first cut is whose fault it is; the code decides everything else.

    GatewayError
    ├── ClientFault     the caller can mend it
    ├── UpstreamFault   what an upstream did; see each class for what a client is told
    └── GatewayFault    ours: storage, overload, shutdown

Every class names the public `code`, the HTTP status and the vendor's `type` word. Only
`gateway/http/errors.py` turns an error into an answer, and logs it. docs/errors.md lists the codes.
"""

from typing import ClassVar


class GatewayError(Exception):
    """An error with a public face.

    `message` goes to the client: it names field, problem and what is allowed, and never holds
    credentials or internals. `param` is the field's path ("content[0].text") or empty.
    """

    code: ClassVar[str] = "InternalServiceError"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerError"

    def __init__(
        self, message: str, *, param: str = "", code: str = "", retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.public_code = code or self.code
        self.public_status = self.status
        self.public_type = self.type
        self.retry_after_s = retry_after_s


# --- the client's fault -------------------------------------------------------------------------


class ClientFault(GatewayError):
    code = "InvalidParameter"
    status = 400
    type = "BadRequest"


class InvalidRequest(ClientFault):
    """A field is wrong: `param` names it, the message says what is allowed."""


class MissingParameter(ClientFault):
    code = "MissingParameter"


class Unauthenticated(ClientFault):
    """One and the same answer for a missing, malformed, unknown, revoked or expired key."""

    code = "AuthenticationError"
    status = 401
    type = "Unauthorized"


class AccessDenied(ClientFault):
    code = "AccessDenied"
    status = 403
    type = "Forbidden"


class NotFound(ClientFault):
    code = "NotFound"
    status = 404
    type = "NotFound"


class TaskNotFound(NotFound):
    """The task is unknown, or another project's: the two are told in the same words."""

    code = "NotFound.Task"


class ModelNotFound(NotFound):
    code = "InvalidEndpointOrModel.NotFound"


class PriceNotFound(ClientFault):
    """The model is known here, but nothing says what it costs in the case asked for."""

    code = "InvalidEndpointOrModel.Unpriced"


class MethodNotAllowed(ClientFault):
    code = "MethodNotAllowed"
    status = 405
    type = "MethodNotAllowed"


class RequestTimeout(ClientFault):
    """The body did not arrive in time."""

    code = "RequestTimeout"
    status = 408
    type = "RequestTimeout"


class RunningTaskDeletion(ClientFault):
    code = "InvalidAction.RunningTaskDeletion"
    status = 409
    type = "Conflict"


class SubmissionUnconfirmed(ClientFault):
    """The task's submission has no known outcome yet, so it can't be cancelled yet."""

    code = "InvalidAction.SubmissionUnconfirmed"
    status = 409
    type = "Conflict"


class ImportedTaskDeletion(ClientFault):
    """The task was made before the gateway, which only reads such tasks."""

    code = "InvalidAction.ImportedTaskDeletion"
    status = 409
    type = "Conflict"


class CancellationUnsupported(ClientFault):
    """The task waits at an upstream that has no way to cancel it."""

    code = "InvalidAction.CancellationUnsupported"
    status = 409
    type = "Conflict"


class BudgetExceeded(ClientFault):
    """A budget has no room for what the task may cost. SDKs repeat a 429 by themselves, no 402."""

    code = "QuotaExceeded.Budget"
    status = 402
    type = "PaymentRequired"


class RateLimited(ClientFault):
    code = "RateLimitExceeded.Requests"
    status = 429
    type = "TooManyRequests"


class TooManyTasks(ClientFault):
    """As many tasks are in progress as a limit allows."""

    code = "RateLimitExceeded.Tasks"
    status = 429
    type = "TooManyRequests"


class IdempotencyKeyReused(ClientFault):
    """The key stands for another request."""

    code = "InvalidParameter.IdempotencyKeyReused"
    status = 422
    type = "UnprocessableEntity"


class RequestTooLarge(ClientFault):
    code = "RequestTooLarge"
    status = 413
    type = "RequestTooLarge"


class UnsupportedMediaType(ClientFault):
    code = "UnsupportedMediaType"
    status = 415
    type = "UnsupportedMediaType"


# --- the upstream's part ------------------------------------------------------------------------


class UpstreamFault(GatewayError):
    """Something an upstream did or failed to do."""

    code = "UpstreamUnavailable"
    status = 503
    type = "ServiceUnavailable"


class UpstreamUnavailable(UpstreamFault):
    """The transport proves that no byte of the request left: sending it again is safe."""


class UpstreamAmbiguous(UpstreamFault):
    """Bytes left and no definite answer came. Clients never see it: the task becomes `unknown`."""


class UpstreamTimeout(UpstreamFault):
    """A read or a cancel, never a submit, got no answer in time."""

    code = "UpstreamTimeout"
    status = 504
    type = "GatewayTimeout"


class UpstreamRejected(UpstreamFault):
    """A definite no, in the upstream's own words and with its own status.

    `code`, `message`, `param` and `kind` are the upstream's, cleaned of accounts, ids and URLs.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        kind: str = "",
        param: str = "",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, retry_after_s=retry_after_s)
        self.public_status = status
        self.public_type = kind


class UpstreamAccount(UpstreamFault):
    """Our own credential was refused, is overdue or has spent its cap: an operator must act."""

    code = "UpstreamAccount"


# --- our own ------------------------------------------------------------------------------------


class GatewayFault(GatewayError):
    status = 503
    type = "ServiceUnavailable"


class InternalError(GatewayFault):
    """A defect of ours: told in fixed words, never with internals."""

    code = "InternalServiceError"
    status = 500
    type = "InternalServerError"


class StorageUnavailable(GatewayFault):
    code = "StorageUnavailable"


class Draining(GatewayFault):
    code = "Draining"


class Reconciling(GatewayFault):
    """After a restore, what the upstream made since the backup is not known yet."""

    code = "Reconciling"


class Overloaded(GatewayFault):
    code = "ServerOverloaded"


class SubmissionsUnconfirmed(GatewayFault):
    """Too many earlier submissions have no known outcome: nothing was sent or held for this one."""

    code = "SubmissionsUnconfirmed"


class LedgerDifference(GatewayFault):
    """The books do not add up, or were not audited yet, and the configuration says to stop then."""

    code = "LedgerDifference"


class ConfigurationError(Exception):
    """The program can't start as it is configured; the message says what to set. Exit code 2."""
