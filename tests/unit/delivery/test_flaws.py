"""What is wrong with a URL is known without the network, and is how a delivery to it ends."""

from collections.abc import Sequence

import pytest

from gateway.delivery.client import DeliverySettings, WebhookClient
from gateway.domain.webhooks import DeliveryError, DeliveryResult


def open_client(*, allow_private: tuple[str, ...] = (), allow_http: bool = True) -> WebhookClient:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        raise AssertionError

    settings = DeliverySettings(allow_private=allow_private, allow_http=allow_http)
    return WebhookClient(settings, resolve)


INSIDE_OR_UNREADABLE = {
    "http://127.0.0.1/": DeliveryError.URL_REFUSED,
    "https://10.1.2.3:8443/hook": DeliveryError.URL_REFUSED,
    "http://169.254.169.254/latest": DeliveryError.URL_REFUSED,
    "http://[::1]/": DeliveryError.URL_REFUSED,
    "http://[::ffff:127.0.0.1]/": DeliveryError.URL_REFUSED,
    "http://example.com:99999/": DeliveryError.URL_INVALID,
    "http://0x7f.1/": DeliveryError.URL_INVALID,
    "http://2130706433/": DeliveryError.URL_INVALID,
    "http://a..b/": DeliveryError.URL_INVALID,
}


@pytest.mark.parametrize("url", INSIDE_OR_UNREADABLE)
async def test_a_flaw_that_is_foretold_is_how_the_delivery_ends(url: str) -> None:
    outside = open_client()

    assert outside.find_flaw(url) is INSIDE_OR_UNREADABLE[url]
    assert await outside.post(url, b"{}", {}) == DeliveryResult(None, INSIDE_OR_UNREADABLE[url])


def test_no_name_is_looked_up_to_find_a_flaw() -> None:
    for url in ("http://localhost/", "https://8.8.4.4:8443/", "http://metadata.internal/"):
        assert open_client().find_flaw(url) is None


def test_what_is_allowed_is_no_flaw_and_http_may_be_one() -> None:
    inside = open_client(allow_private=("127.0.0.0/8",))
    tls_alone = open_client(allow_http=False)

    assert inside.find_flaw("http://127.0.0.1/") is None
    assert inside.find_flaw("http://10.1.2.3/") is DeliveryError.URL_REFUSED
    assert tls_alone.find_flaw("http://a.example/") is DeliveryError.SCHEME_REFUSED
    assert tls_alone.find_flaw("https://a.example/") is None
