"""Signatures: compared with the specification's sample, the reference library, and by hand."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.clock import SystemClock
from gateway.delivery.signing import Signer, sign
from gateway.errors import ConfigurationError

OLD = "whsec_" + base64.b64encode(hashlib.sha256(b"old").digest()).decode()
NEW = "whsec_" + base64.b64encode(hashlib.sha512(b"new").digest()).decode()
OTHER = "whsec_" + base64.b64encode(hashlib.sha256(b"other").digest()).decode()


def signer(*secrets: str) -> Signer:
    return Signer([SecretStr(secret) for secret in secrets])


def verify(headers: dict[str, str], body: bytes, secret: str) -> None:
    Webhook(secret).verify(body, headers, json_parse=False)


def test_the_sample_of_the_specification() -> None:
    sample = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signature = sign(
        [sample], "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', 1_614_265_330
    )

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(body=st.text().map(str.encode), now_ms=st.integers(0, 4_000_000_000_000))
def test_every_signature_is_the_hmac_of_id_seconds_and_body(body: bytes, now_ms: int) -> None:
    headers = signer(OLD).headers("msg_1", body, now_ms)

    signed = b"msg_1.%d.%s" % (now_ms // 1000, body)
    expected = hmac.digest(hashlib.sha256(b"old").digest(), signed, "sha256")
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now_ms // 1000),
        "webhook-signature": "v1," + base64.b64encode(expected).decode(),
    }


def test_each_active_secret_verifies_and_no_other_does() -> None:
    body = '{"id":"cgt-1","text":"船"}'.encode()
    headers = signer(NEW, OLD).headers("msg_1", body, SystemClock().now_ms())

    assert headers["webhook-signature"].count("v1,") == 2
    verify(headers, body, NEW)
    verify(headers, body, OLD)
    with pytest.raises(WebhookVerificationError):
        verify(headers, body, OTHER)


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "body"])
def test_nothing_signed_can_be_exchanged(part: str) -> None:
    now_ms = SystemClock().now_ms()
    headers = signer(NEW).headers("msg_1", b"{}", now_ms)
    others = {"webhook-id": "msg_2", "webhook-timestamp": str(now_ms // 1000 + 1)}
    body = b'{"a":1}' if part == "body" else b"{}"

    with pytest.raises(WebhookVerificationError):
        verify({**headers, **{k: v for k, v in others.items() if k == part}}, body, NEW)


def test_an_id_stays_while_the_time_of_each_attempt_is_its_own() -> None:
    first = signer(NEW).headers("msg_1", b"{}", 1_000_000)
    second = signer(NEW).headers("msg_1", b"{}", 9_000_000)

    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert first["webhook-signature"] != second["webhook-signature"]


@pytest.mark.parametrize("message_id", ["", "a.b", "a b", "a\n", "é", "a" * 129])
def test_an_id_that_could_be_read_in_two_ways_is_not_signed(message_id: str) -> None:
    with pytest.raises(ValueError, match="message's id"):
        signer(NEW).headers(message_id, b"{}", 0)


@pytest.mark.parametrize(
    "secrets", [(), ("whsec_",), (NEW, "whsec_c2hvcnQ="), (NEW, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZI")]
)
def test_a_secret_that_protects_nothing_is_refused_and_not_told(secrets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        signer(*secrets)

    assert str(caught.value).startswith("webhooks.secrets")
    for secret in secrets:
        assert secret.removeprefix("whsec_")[:6] not in str(caught.value) or secret == "whsec_"


def test_more_secrets_than_a_rotation_needs_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 to 4"):
        signer(*[NEW] * 5)
