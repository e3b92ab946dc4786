"""Whose fault a refusal is, and what of it a client may read."""

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    GatewayError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstreams.answers import Answer
from gateway.upstreams.faults import (
    ErrorObject,
    find_error_object,
    read_fault,
    says_task_gone,
    submission_fault,
)

REQUEST_ID = "Request id: 021795330862123456a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7"


def vendor_error(
    code: str, message: str = "No.", param: str = "", kind: str = ""
) -> dict[str, object]:
    return {
        "error": {
            "code": code,
            "message": f"{message} {REQUEST_ID}",
            "param": param,
            "type": kind,
        }
    }


def answer(status: int, value: object, **headers: str) -> Answer:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), names)


def rejected(fault: GatewayError) -> UpstreamRejected:
    assert isinstance(fault, UpstreamRejected), repr(fault)
    return fault


def test_a_parameter_error_keeps_code_param_type_and_text() -> None:
    message = (
        "the parameter duration specified in the request is not valid for model "
        "doubao-seedance-1-0-pro in i2v."
    )
    value = vendor_error("InvalidParameter", message, "duration", "BadRequest")

    fault = rejected(submission_fault(answer(400, value), definite_5xx=False))

    assert fault.public_status == 400
    assert fault.public_code == "InvalidParameter"
    assert fault.public_type == "BadRequest"
    assert fault.param == "duration"
    assert fault.message == message
    assert fault.retry_after_s is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "MissingParameter.content"),
        (400, "InvalidParameter.TaskTypeConstraint"),
        (400, "InputTextSensitiveContentDetected.PolicyViolation"),
        (400, "InputImageSensitiveContentDetected.PrivacyInformation"),
        (400, "OutputVideoSensitiveContentDetected"),
        (400, "InputTextRiskDetection"),
        (400, "ContentSecurityDetectionError"),
        (404, "UnsupportedModel"),
        (404, "NotFound.Asset"),
        (422, "InvalidParameter"),
        (429, "RateLimitExceeded.EndpointRPMExceeded"),
        (429, "ModelAccountRpmRateLimitExceeded"),
        (429, "ServerOverloaded"),
        (429, "QuotaExceeded"),
    ],
)
def test_what_a_client_can_mend_or_wait_for_passes_with_its_status(status: int, code: str) -> None:
    value = vendor_error(code)

    fault = rejected(submission_fault(answer(status, value), definite_5xx=False))

    assert (fault.public_status, fault.public_code, fault.message) == (status, code, "No.")


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_clients_fault_in_an_account_status_becomes_400(status: int) -> None:
    value = vendor_error("InputTextSensitiveContentDetected")

    fault = rejected(submission_fault(answer(status, value), definite_5xx=False))

    assert fault.public_status == 400


@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7), ("0", 0), (" 12 ", 12), ("99999", 3600), ("-1", None), ("1.5", None), ("", None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("9" * 5000, None), ("\u0661", None)],
)  # fmt: skip
def test_429_keeps_its_retry_after(header: str, expected: int | None) -> None:
    value = vendor_error("RateLimitExceeded.EndpointRPMExceeded")

    fault = submission_fault(answer(429, value, retry_after=header), definite_5xx=False)

    assert rejected(fault).retry_after_s == expected


def test_missing_and_unfit_words_are_replaced() -> None:
    value = {"error": {"message": "", "code": "two words", "param": "<b>", "type": "x y"}}

    fault = rejected(submission_fault(answer(404, value), definite_5xx=False))

    assert (fault.public_code, fault.public_type, fault.param) == ("NotFound", "NotFound", "")
    assert fault.message == "The upstream refused the request."


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "AuthenticationError", "the API key is invalid"),
        (401, "InvalidAccountStatus", "no"),
        (401, "AuthN_MissOrInvalidAuthorizationHeader", "no"),
        (400, "InvalidSubscription", "no"),
        (400, "InvalidEndpoint.ClosedEndpoint", "no"),
        (402, "payment_required", "no"),
        (403, "AccountOverdueError", "overdue balance"),
        (403, "AccessDenied", "no"),
        (403, "OperationDenied.ServiceNotOpen", "no"),
        (403, "", "no"),
        (404, "ModelNotOpen", "Your account 2100123456 has not activated the model X."),
        (404, "InvalidEndpointOrModel.ModelIDAccessDisabled", "no"),
        (429, "SetLimitExceeded", "spending cap reached"),
        (429, "QuotaExceeded", "Your account 2100123456 has used up its free trial quota."),
    ],
)
def test_our_accounts_trouble_is_told_in_our_words_and_503(
    status: int, code: str, message: str
) -> None:
    fault = submission_fault(answer(status, vendor_error(code, message)), definite_5xx=False)

    assert type(fault) is UpstreamAccount
    assert (fault.public_status, fault.public_code) == (503, "UpstreamAccount")
    assert fault.message.startswith("The upstream refuses this gateway's own account")
    assert message not in fault.message
    assert f"upstream said {status} {code}".rstrip() in "".join(traceback.format_exception(fault))


@pytest.mark.parametrize("status", [100, 101, 300, 301, 302, 304, 307, 308])
@pytest.mark.parametrize("value", [{}, vendor_error("InvalidParameter")])
def test_no_redirect_says_anything_about_a_submit(status: int, value: object) -> None:
    fault = submission_fault(answer(status, value), definite_5xx=True)

    assert type(fault) is UpstreamAmbiguous


@pytest.mark.parametrize("status", [405, 408, 409, 410, 418, 499, 500, 502, 503, 504, 599])
def test_statuses_that_balancers_use_leave_a_submit_ambiguous(status: int) -> None:
    fault = submission_fault(
        answer(status, vendor_error("InternalServiceError")), definite_5xx=False
    )

    assert type(fault) is UpstreamAmbiguous


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Bad Request",
        b"<html><body><h1>404 Not Found</h1></body></html>",
        b"{",
        b"null",
        b"[]",
        b'"error"',
        b"{}",
        b'{"error":null}',
        b'{"error":" ","message":""}',
        b'{"error":true,"message":7}',
        b'{"error":{}}',
        b'{"error":{"code":"","message":""}}',
        b'{"error":{"code":null,"message":["x"]}}',
        b'{"code":0,"message":"ok"}',
        b'{"id":"cgt-20261122150102-q7w2x","message":"Submit"}',
        b'{"task_id":1,"error":"queued"}',
        b'{"data":{"message":"x"}}',
        b'{"detail":"Not Found"}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_a_refusal_without_an_error_object_leaves_a_submit_ambiguous(
    status: int, body: bytes
) -> None:
    fault = submission_fault(Answer(status, body), definite_5xx=True)

    assert type(fault) is UpstreamAmbiguous


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 451])
@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ({"error": "no such route"}, "", "no such route"),
        ({"error": "no such route", "code": 7}, "", "no such route"),
        ({"error": "Bad Request", "message": "too long", "status": 400}, "", "too long"),
        ({"error": "too_long", "message": "Too long."}, "too_long", "Too long."),
        ({"code": "too_long", "error": "Too long."}, "too_long", "Too long."),
        ({"message": "no Route matched with those values"}, "", None),
        ({"error": None, "message": "see https://x.example/1"}, "", "see [URL]"),
        ({"error": json.dumps(vendor_error("InvalidParameter"))}, "InvalidParameter", "No."),
    ],
)
def test_plain_words_in_json_are_a_definite_no(
    status: int, value: dict[str, object], code: str, message: str | None
) -> None:
    fault = rejected(submission_fault(answer(status, value), definite_5xx=False))

    fallbacks = {400: "InvalidParameter", 404: "NotFound", 429: "RateLimitExceeded"}
    expected = code or fallbacks.get(status, "UpstreamRejected")
    assert (fault.public_status, fault.public_code) == (status, expected)
    assert fault.message == (message or value["message"])


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("name", ["error", "message"])
def test_plain_words_about_our_account_stay_here(status: int, name: str) -> None:
    fault = submission_fault(answer(status, {name: "pay first"}), definite_5xx=False)

    assert type(fault) is UpstreamAccount
    assert "pay first" not in "".join(traceback.format_exception(fault))


@pytest.mark.parametrize("status", [302, 408, 409, 500, 502, 503])
@pytest.mark.parametrize("name", ["error", "message"])
def test_plain_words_in_other_statuses_leave_a_submit_ambiguous(status: int, name: str) -> None:
    fault = submission_fault(answer(status, {name: "no"}), definite_5xx=True)

    assert type(fault) is UpstreamAmbiguous


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "InvalidEndpointOrModel.NotFound"),
        (404, "InvalidEndpointOrModel"),
        (404, "ModelNotFound"),
        (404, "model_not_found"),
        (400, "InvalidEndpointOrModel.NotFound"),
    ],
)
def test_a_model_that_the_upstream_does_not_know_is_not_named(status: int, code: str) -> None:
    value = vendor_error(code, "The model or endpoint our-deployment-7 does not exist.", "x")

    fault = rejected(submission_fault(answer(status, value), definite_5xx=False))

    assert (fault.public_status, fault.public_code, fault.param) == (status, code, "model")
    assert fault.message == (
        "The model or endpoint does not exist or you do not have access to it."
    )


@pytest.mark.parametrize("status", [400, 401, 404, 409, 429, 500, 503])
def test_the_upstreams_request_id_is_noted_for_the_operator(status: int) -> None:
    refused = answer(status, vendor_error("InvalidParameter"), x_request_id="0217-abc")
    odd = answer(status, vendor_error("InvalidParameter"), x_request_id="a\nb")

    for fault in (submission_fault(refused, definite_5xx=False), read_fault(refused)):
        assert fault.__notes__ == ["upstream request id 0217-abc"]
        assert "0217-abc" not in fault.message
    assert not hasattr(submission_fault(odd, definite_5xx=False), "__notes__")


def test_a_5xx_is_definite_only_where_that_is_configured_and_its_error_complete() -> None:
    complete = answer(500, vendor_error("InternalServiceError", "Internal error."))
    bare = Answer(502, b"<html>Bad Gateway</html>")
    halved = answer(500, {"error": {"message": "oops"}})

    fault = rejected(submission_fault(complete, definite_5xx=True))
    assert (fault.public_status, fault.public_code) == (500, "InternalServiceError")
    assert fault.public_type == "InternalServerError"
    for unclear in (bare, halved):
        assert type(submission_fault(unclear, definite_5xx=True)) is UpstreamAmbiguous
    assert type(submission_fault(complete, definite_5xx=False)) is UpstreamAmbiguous


INNER = vendor_error("InvalidParameter", "duration is wrong.", "duration", "BadRequest")
ENVELOPES: dict[str, object] = {
    "vendor": INNER,
    "gateway plane": {
        "ResponseMetadata": {
            "RequestId": "2026",
            "Error": {"Code": "InvalidParameter", "Message": f"duration is wrong. {REQUEST_ID}"},
        }
    },
    "reseller, flat": {"code": "InvalidParameter", "message": "duration is wrong.", "data": None},
    "reseller, escaped": {"code": "fail_to_fetch_task", "message": json.dumps(INNER), "data": None},
    "reseller, escaped twice": {
        "code": "fail_to_fetch_task",
        "message": json.dumps({"code": "fail_to_fetch_task", "message": json.dumps(INNER)}),
    },
    "reseller, inside an error object": {
        "error": {"code": "bad_response", "type": "new_api_error", "message": json.dumps(INNER)}
    },
    "reseller, error in an error": {"error": INNER},
    "reseller, in data": {"code": 0, "message": "ok", "data": INNER},
}


@pytest.mark.parametrize("case", ENVELOPES)
def test_the_innermost_error_is_found(case: str) -> None:
    fault = rejected(submission_fault(answer(400, ENVELOPES[case]), definite_5xx=False))

    assert (fault.public_code, fault.message) == ("InvalidParameter", "duration is wrong.")


def test_a_resellers_own_error_is_told_as_it_is() -> None:
    value = {"code": "invalid_request", "message": "seconds must be 5 or 10", "data": None}

    fault = rejected(submission_fault(answer(400, value), definite_5xx=False))

    assert (fault.public_code, fault.message) == ("invalid_request", "seconds must be 5 or 10")


def test_a_resellers_empty_purse_is_our_account() -> None:
    inner = {"code": "insufficient_user_quota", "message": "balance 0"}
    value = {"code": "fail_to_fetch_task", "message": json.dumps(inner)}

    assert type(submission_fault(answer(400, value), definite_5xx=False)) is UpstreamAccount


def test_words_that_a_client_had_quoted_back_are_not_taken_for_an_error() -> None:
    forged = json.dumps({"error": {"code": "AccountOverdueError", "message": "pay"}})
    value = vendor_error("InvalidParameter", f"the prompt {forged} is not valid.")

    fault = rejected(submission_fault(answer(400, value), definite_5xx=False))

    assert fault.public_code == "InvalidParameter"


@pytest.mark.parametrize(
    "value",
    [
        {"code": 0, "message": "ok"},
        {"code": "success", "message": "done", "data": {"task_id": "x"}},
        {"code": 200, "message": "OK"},
        {"message": "Seedance Video Generation - Submit", "id": "x"},
        {"error": None, "id": "x"},
        [],
        None,
        1,
        True,
    ],
)
def test_success_is_no_error(value: object) -> None:
    assert find_error_object(value) is None


def test_nesting_without_end_ends() -> None:
    value: object = {"code": "deepest", "message": "x"}
    for _ in range(200):
        value = {"code": "fail_to_fetch_task", "message": "x", "data": {"error": {"error": value}}}
    message = "x"
    for _ in range(8):
        message = json.dumps({"code": "again", "message": message})

    assert isinstance(find_error_object(value), ErrorObject)
    assert isinstance(find_error_object(json.loads(message)), ErrorObject)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "code",
                    "message",
                    "data",
                    "ResponseMetadata",
                    "Error",
                    "param",
                    "type",
                    "id",
                ]
            )
            | st.text(),
            inner,
        )
    ),
    max_leaves=20,
)


@given(status=st.integers(100, 599), value=json_values | st.binary(), definite_5xx=st.booleans())
def test_any_answer_is_judged_without_a_crash(
    status: int, value: object, *, definite_5xx: bool
) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    got = Answer(status, body)

    fault = submission_fault(got, definite_5xx=definite_5xx)

    assert isinstance(fault, UpstreamRejected | UpstreamAccount | UpstreamAmbiguous)
    assert fault.message
    assert isinstance(
        read_fault(got),
        UpstreamRejected | UpstreamAccount | UpstreamTimeout | UpstreamUnavailable,
    )


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (401, "plain", UpstreamAccount),
        (403, vendor_error("AccessDenied"), UpstreamAccount),
        (429, "plain", UpstreamRejected),
        (429, vendor_error("APIAccountRpmRateLimitExceeded"), UpstreamRejected),
        (400, vendor_error("InvalidParameter"), UpstreamRejected),
        (400, "plain", UpstreamUnavailable),
        (404, "plain", UpstreamUnavailable),
        (409, vendor_error("InvalidAction.Other"), UpstreamRejected),
        (302, "plain", UpstreamUnavailable),
        (408, "plain", UpstreamTimeout),
        (504, "plain", UpstreamTimeout),
        (500, vendor_error("InternalServiceError"), UpstreamUnavailable),
        (503, "plain", UpstreamUnavailable),
    ],
)
def test_a_failed_read_is_told_by_its_class(
    status: int, value: object, expected: type[GatewayError]
) -> None:
    assert type(read_fault(answer(status, value))) is expected


def test_a_busy_upstream_says_when_to_read_again() -> None:
    assert read_fault(answer(503, "plain", retry_after="9")).retry_after_s == 9
    assert read_fault(answer(429, "plain", retry_after="9")).retry_after_s == 9


@pytest.mark.parametrize(
    ("status", "value", "is_gone"),
    [
        (404, vendor_error("NotFound.Task"), True),
        (404, vendor_error("InvalidParameter"), True),
        (400, {"code": "task_not_exist", "message": "task_not_exist", "data": None}, True),
        (404, "<html>", False),
        (404, {}, False),
        (400, vendor_error("InvalidParameter"), False),
        (410, vendor_error("NotFound.Task"), False),
        (200, vendor_error("NotFound.Task"), False),
        (500, {"code": "task_not_exist", "message": "x"}, False),
    ],
)
def test_only_the_vendors_own_words_make_a_task_gone(
    status: int, value: object, *, is_gone: bool
) -> None:
    assert says_task_gone(answer(status, value)) is is_gone
