"""The vendor's errors: every code it documents, with status, type word and message."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_BAD: Final = (400, "BadRequest")
_FORBIDDEN: Final = (403, "Forbidden")
_MISSING: Final = (404, "NotFound")
_BUSY: Final = (429, "TooManyRequests")

_SENSITIVE: Final = "The request failed because the {what} may contain sensitive information."


def _moderation_codes() -> dict[str, tuple[int, str, str]]:
    codes = {}
    for end, kinds in (
        ("Input", ("Text", "Image", "Video", "Audio")),
        ("Output", ("Text", "Image", "Video", "Audio")),
    ):
        for kind in kinds:
            text = _SENSITIVE.format(what=f"{end.lower()} {kind.lower()}")
            codes[f"{end}{kind}SensitiveContentDetected"] = (*_BAD, text)
            codes[f"{end}{kind}SensitiveContentDetected.PolicyViolation"] = (*_BAD, text)
        for kind in kinds[:2]:
            text = f"The {end.lower()} {kind.lower()} was found risky."
            codes[f"{end}{kind}RiskDetection"] = (*_BAD, text)
    for kind in ("Image", "Video"):
        codes[f"Input{kind}SensitiveContentDetected.PrivacyInformation"] = (
            *_BAD,
            f"The request failed because the input {kind.lower()} may contain real person.",
        )
    for suffix in ("", ".SevereViolation", ".Violence", ".PolicyViolation"):
        codes[f"SensitiveContentDetected{suffix}"] = (*_BAD, _SENSITIVE.format(what="request"))
    codes["ContentSecurityDetectionError"] = (*_BAD, "The content security check failed.")
    return codes


_NO_MODEL: Final = "The model or endpoint {model} does not exist or you do not have access to it."

ERRORS: Final[Mapping[str, tuple[int, str, str]]] = MappingProxyType(
    {
        "MissingParameter": (*_BAD, "The request is missing a required parameter."),
        "InvalidParameter": (*_BAD, "A parameter specified in the request is not valid."),
        "InvalidParameter.TaskTypeConstraint": (
            *_BAD,
            "The parameters do not meet the constraints of the task type.",
        ),
        "InvalidParameter.TaskTypeMismatch": (
            *_BAD,
            "The declared task type does not match the content.",
        ),
        "InvalidParameter.UnsupportedParameter": (
            *_BAD,
            "A parameter specified in the request is not supported by the model.",
        ),
        "InvalidArgumentError": (*_BAD, "An argument of the request is not valid."),
        "InvalidImageURL.EmptyURL": (*_BAD, "The image url is empty."),
        "InvalidImageURL.InvalidFormat": (*_BAD, "The image url has an invalid format."),
        "OutofContextError": (*_BAD, "The request exceeds the context of the model."),
        "InvalidEndpoint.ClosedEndpoint": (*_BAD, "The endpoint is closed or unavailable."),
        **_moderation_codes(),
        "InvalidSubscription": (400, "Forbidden", "Your subscription is not valid."),
        "AuthenticationError": (
            401,
            "Unauthorized",
            "The API key or AK/SK in the request is missing or invalid.",
        ),
        "InvalidAccountStatus": (401, "Forbidden", "The account is not in a valid state."),
        "AccessDenied": (*_FORBIDDEN, "You do not have permission to access this resource."),
        "AccountOverdueError": (*_FORBIDDEN, "The account {account} has an overdue balance."),
        "OperationDenied.InvalidState": (*_FORBIDDEN, "The resource is in an invalid state."),
        "OperationDenied.PermissionDenied": (*_FORBIDDEN, "The operation is not permitted."),
        "OperationDenied.ServiceNotOpen": (*_FORBIDDEN, "The service is not open."),
        "OperationDenied.ServiceOverdue": (*_FORBIDDEN, "The service is overdue."),
        "OperationDenied.FileQuotaExceeded": (*_FORBIDDEN, "The file quota is used up."),
        "InvalidEndpointOrModel.NotFound": (*_MISSING, _NO_MODEL),
        "InvalidEndpointOrModel.ModelIDAccessDisabled": (
            *_MISSING,
            "Access by model id is disabled: use an endpoint id.",
        ),
        "ModelNotOpen": (
            *_MISSING,
            "Your account {account} has not activated the model {model}.",
        ),
        "NotFound": (*_MISSING, "The specified resource is not found."),
        "UnsupportedModel": (*_MISSING, "The model does not support this operation."),
        "InvalidAction.RunningTaskDeletion": (
            409,
            "Conflict",
            "Cannot delete the task because it is currently running.",
        ),
        "InvalidAction.CancelledTaskDeletion": (
            409,
            "Conflict",
            "Cannot delete the task because it is cancelled.",
        ),
        "RateLimitExceeded.EndpointRPMExceeded": (*_BUSY, "Requests per minute of the endpoint."),
        "RateLimitExceeded.EndpointTPMExceeded": (*_BUSY, "Tokens per minute of the endpoint."),
        "ModelAccountRpmRateLimitExceeded": (
            *_BUSY,
            "The account {account} exceeds the requests per minute of the model {model}.",
        ),
        "ModelAccountTpmRateLimitExceeded": (*_BUSY, "Tokens per minute of the model."),
        "ModelAccountIpmRateLimitExceeded": (*_BUSY, "Images per minute of the model."),
        "APIAccountRpmRateLimitExceeded": (*_BUSY, "Requests per minute of the account."),
        "AccountRateLimitExceeded": (
            *_BUSY,
            "The requests of the account {account} exceed the rate limit.",
        ),
        "QuotaExceeded": (
            *_BUSY,
            "The account {account} has too many queued tasks or no quota left.",
        ),
        "ServerOverloaded": (*_BUSY, "The service is overloaded, please retry later."),
        "RequestBurstTooFast": (*_BUSY, "The requests grow too fast, please slow down."),
        "SetLimitExceeded": (*_BUSY, "The account {account} has reached its set usage limit."),
        "InflightBatchsizeExceeded": (*_BUSY, "Too many requests are in flight."),
        "InternalServiceError": (
            500,
            "InternalServerError",
            "The service encountered an unexpected internal error.",
        ),
    }
)
"""code -> (HTTP status, type word, message); `{account}` and `{model}` are filled in."""


class VendorError(Exception):
    """An answer that is an error, in the vendor's words."""

    def __init__(
        self, code: str, message: str = "", *, param: str = "", status: int = 0, model: str = ""
    ) -> None:
        known_status, kind, known_message = ERRORS.get(code) or ERRORS[_stem(code)]
        super().__init__(code)
        self.code = code
        self.status = status or known_status
        self.kind = kind
        self.message = message or known_message
        self.param = param
        self.model = model
        self.is_plane_error = False


def is_known_code(code: str) -> bool:
    """Whether the vendor documents the code, or its first part with any last part."""
    return code in ERRORS or _stem(code) in {"InvalidParameter", "MissingParameter", "NotFound"}


def _stem(code: str) -> str:
    stem = code.partition(".")[0]
    return stem if stem in ERRORS else "InternalServiceError"


def invalid(param: str, problem: str, *, code: str = "InvalidParameter") -> VendorError:
    """Return the vendor's 400 about one field."""
    return VendorError(
        code,
        f"The parameter `{param}` specified in the request is not valid: {problem}.",
        param=param,
    )


def not_valid_for(param: str, model: str, mode: str) -> VendorError:
    """Return the vendor's 400 about a value that this model does not take in this mode."""
    return VendorError(
        "InvalidParameter",
        f"the parameter {param} specified in the request is not valid for model {model} in {mode}",
        param=param,
    )


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """What the words of an error answer are filled with."""

    request_id: str
    account_number: str
    is_reseller: bool


def render_error(error: VendorError, context: ErrorContext) -> bytes:
    """Return the body of an error answer in the envelope that the caller sees."""
    message = describe(error, context)
    if error.is_plane_error:
        envelope: dict[str, object] = {
            "ResponseMetadata": {
                "RequestId": context.request_id,
                "Error": {"Code": error.code, "Message": message},
            }
        }
        return json.dumps(envelope).encode()
    vendor = {
        "error": {
            "code": error.code,
            "message": message,
            "param": error.param,
            "type": error.kind,
        }
    }
    if not context.is_reseller:
        return json.dumps(vendor).encode()
    if error.status == 401:
        inner = {"message": message, "type": "new_api_error", "code": "invalid_api_key"}
        return json.dumps({"error": inner}).encode()
    nested = {"code": "fail_to_fetch_task", "message": json.dumps(vendor), "data": None}
    return json.dumps(nested).encode()


def describe(error: VendorError, context: ErrorContext) -> str:
    """Return the message with its blanks filled and the request id that ends it."""
    text = error.message.replace("{account}", context.account_number)
    text = text.replace("{model}", error.model or "of the request")
    return f"{text.rstrip('.')}. Request id: {context.request_id}"
