"""The Upstream port, submits: each dialect over real connections to a scripted upstream."""

import asyncio
import json

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
)
from gateway.ports import Submission
from gateway.upstreams.client import Operation, Outcome
from tests.support.adapters import (
    ATTEMPT_ID,
    CANARY,
    DIALECTS,
    PATHS,
    REQUEST,
    REQUEST_ID,
    TASK_ID,
    fault_of,
    opened,
    vendor_error,
)
from tests.support.raw_upstream import (
    RawConnection,
    RawUpstream,
    always,
    answer_bytes,
    json_answer,
)
from tests.support.requests import a_text, an_image


@DIALECTS
async def test_says_what_it_is_and_can(dialect: str) -> None:
    async with RawUpstream(always(b"")) as peer:
        async with opened(dialect, peer) as one:
            is_ark = dialect == "ark"
            assert (one.upstream.name, list(one.upstream.credentials)) == (
                "one",
                ["main", "second"],
            )
            assert (one.upstream.supports_list, one.upstream.supports_cancel) == (is_ark, is_ark)
        overrides: dict[str, object] = {"supports_list": True, "supports_cancel": False}
        async with opened(dialect, peer, **overrides) as one:
            assert (one.upstream.supports_list, one.upstream.supports_cancel) == (True, False)


@DIALECTS
async def test_a_submit_is_one_post_and_gives_the_upstreams_id(dialect: str) -> None:
    answer = json_answer(
        {"id": TASK_ID, "message": "Submit"}, headers=(f"X-Request-Id: {REQUEST_ID}",)
    )
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        assert await one.submit() == Submission(TASK_ID, REQUEST_ID)

        (request,) = peer.requests
        assert (request.method, request.target) == ("POST", PATHS[dialect])
        assert request.header("authorization") == f"Bearer {CANARY}"
        assert request.header("x-client-request-id") == ATTEMPT_ID
        fields, text = ({"duration": 5}, "Paper boats")
        if dialect == "seedance":
            fields, text = ({}, "Paper boats --duration 5")
        assert request.json() == {"model": "ep-1", "content": [a_text(text), an_image()], **fields}
        assert one.outcomes() == [(Operation.SUBMIT, Outcome.OK)]
        assert one.calls[0].upstream == "one"


@DIALECTS
async def test_a_submit_uses_the_credential_that_it_is_told(dialect: str) -> None:
    async with RawUpstream(always(json_answer({"id": TASK_ID}))) as peer:
        async with opened(dialect, peer) as one:
            await one.upstream.submit(
                "second", "ep-1", REQUEST, draft_task_id=None, attempt_id=ATTEMPT_ID
            )

        assert peer.requests[0].header("authorization") == "Bearer another"


REFUSALS: dict[str, tuple[bytes, type[GatewayError], Outcome]] = {
    "a wrong parameter": (
        json_answer(vendor_error("InvalidParameter", param="duration"), status=400),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "an unfit prompt": (
        json_answer(vendor_error("InputTextSensitiveContentDetected"), status=400),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "an unknown model": (
        json_answer(vendor_error("InvalidEndpointOrModel.NotFound"), status=404),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "too many requests": (
        json_answer(vendor_error("RateLimitExceeded.EndpointRPMExceeded"), status=429),
        UpstreamRejected,
        Outcome.RATE_LIMITED,
    ),
    "a bad credential": (
        json_answer(vendor_error("AuthenticationError"), status=401),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "an account in arrears": (
        json_answer(vendor_error("AccountOverdueError"), status=403),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "a spent cap": (
        json_answer(vendor_error("SetLimitExceeded"), status=429),
        UpstreamAccount,
        Outcome.ACCOUNT,
    ),
    "a reseller's wrapping": (
        json_answer(
            {"code": "fail_to_fetch_task", "message": json.dumps(vendor_error("InvalidParameter"))},
            status=400,
        ),
        UpstreamRejected,
        Outcome.REJECTED,
    ),
    "a page of a front proxy": (
        answer_bytes(b"<html>Forbidden</html>", status=403, content_type="text/html"),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a redirect": (
        answer_bytes(b"", status=302, headers=("Location: http://127.0.0.1:1/",)),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a conflict": (
        json_answer(vendor_error("Conflict"), status=409),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a server error": (
        json_answer(vendor_error("InternalServiceError"), status=500),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "a bad gateway": (
        answer_bytes(b"Bad Gateway", status=502),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "success without an id": (json_answer({}), UpstreamAmbiguous, Outcome.AMBIGUOUS),
    "an error in a success": (
        json_answer({"code": "fail_to_fetch_task", "message": "x", "data": None}),
        UpstreamAmbiguous,
        Outcome.AMBIGUOUS,
    ),
    "junk": (b"\x00\x01\r\n\r\n", UpstreamAmbiguous, Outcome.AMBIGUOUS),
}


@DIALECTS
@pytest.mark.parametrize("case", REFUSALS)
async def test_a_submit_that_fails_is_told_by_its_class_and_not_repeated(
    dialect: str, case: str
) -> None:
    answer, expected, outcome = REFUSALS[case]
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

        assert type(fault) is expected
        assert one.outcomes() == [(Operation.SUBMIT, outcome)]
        assert (peer.connection_count, len(peer.requests)) == (1, 1)


@DIALECTS
async def test_a_rejection_is_told_in_the_upstreams_words(dialect: str) -> None:
    value = vendor_error("InvalidParameter", f"duration of {TASK_ID} is not valid.", "duration")
    answer = json_answer(value, status=400)
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

    assert (fault.public_status, fault.public_code, fault.public_type, fault.param) == (
        400,
        "InvalidParameter",
        "BadRequest",
        "duration",
    )
    assert fault.message == "duration of [id] is not valid."


@DIALECTS
async def test_429_keeps_its_retry_after(dialect: str) -> None:
    answer = json_answer(vendor_error("ServerOverloaded"), status=429, headers=("Retry-After: 11",))
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        fault = await fault_of(one, "submit")

    assert (fault.public_status, fault.retry_after_s) == (429, 11)


@DIALECTS
async def test_a_server_error_is_definite_where_that_is_configured(dialect: str) -> None:
    answer = json_answer(vendor_error("InternalServiceError"), status=500)
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer, definite_5xx=True) as one:
        fault = await fault_of(one, "submit")

    assert type(fault) is UpstreamRejected
    assert fault.public_status == 500


@DIALECTS
async def test_a_cancelled_submit_is_recorded(dialect: str) -> None:
    async def keeps_silent(connection: RawConnection) -> None:
        await connection.read_request()
        await connection.wait_until_left()

    async with (
        RawUpstream(keeps_silent) as peer,
        opened(dialect, peer, answer_timeout_s=60) as one,
        asyncio.TaskGroup() as group,
    ):
        call = group.create_task(one.submit())
        await peer.wait_for_requests(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert one.outcomes() == [(Operation.SUBMIT, Outcome.ABANDONED)]
