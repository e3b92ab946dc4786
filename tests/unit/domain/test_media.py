import base64
import hashlib
import tracemalloc
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.media import MediaKind, check_media, check_web_address
from gateway.domain.policy import NormalizePolicy
from gateway.errors import InvalidRequest

POLICY: Final = NormalizePolicy()
PARAM: Final = "content[1].image_url"


def refusal(url: str, kind: MediaKind = MediaKind.IMAGE, policy: NormalizePolicy = POLICY) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_media(url, kind, PARAM, policy)
    assert caught.value.param == PARAM
    assert caught.value.message.startswith(f"the parameter {PARAM} specified in the request")
    return caught.value.message


def as_data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        "https://img.example/boat.png",
        "http://img.example",
        "HTTPS://IMG.EXAMPLE/a?b=c#d",
        "https://img.example:8443/a%20b?sig=%2F",
        "https://img.example/a b.png",
        "https://例え.jp/船.png?x=é",
        "https://[2001:db8::1]/a.png",
        "https://[2001:db8::1]:80/a.png",
        "http://192.0.2.1?x",
        "asset://asset-20260101-abcde",
        "https://img.example/" + "a" * 8_000,
    ],
)
def test_accepts_addresses_and_keeps_them_as_they_are(url: str) -> None:
    for kind in MediaKind:
        assert check_media(url, kind, PARAM, POLICY) == url


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("boat.png", "a URL without a scheme is given, allowed are http, https, data:image/"),
        ("//img.example/a.png", "a URL without a scheme"),
        (" https://img.example/a.png", "a URL without a scheme"),
        ("ftp://img.example/a.png", "the scheme ftp is given"),
        ("file:///etc/passwd", "the scheme file is given"),
        ("javascript:alert(1)", "the scheme javascript is given"),
        ("https:/img.example/a.png", "the scheme http or https and a host is allowed"),
        ("https://", "and a host is allowed"),
        ("https:///a.png", "and a host is allowed"),
        ("https://img.example/a\nb", "and a host is allowed"),
        ("https://img.example/a\\b", "and a host is allowed"),
        ("https://good.example\\@evil.example/", "and a host is allowed"),
        ("https://img .example/a", "and a host is allowed"),
        ("https://user:pass@img.example/a", "must not hold a user name or password"),
        ("https://user@img.example/a", "must not hold a user name or password"),
        ("https://:80/a", "host or port is not valid"),
        ("https://img.example:port/a", "host or port is not valid"),
        ("https://[2001:db8::1/a", "host or port is not valid"),
        ("https://img.example/" + "a" * 8_200, "the URL has 8220 characters, at most 8192"),
        ("asset://", "an asset is given as asset://<id>"),
        ("asset://a/../b", "an asset is given as asset://<id>"),
        ("asset://" + "a" * 300, "an asset is given as asset://<id>"),
    ],
)
def test_refuses_other_addresses(url: str, problem: str) -> None:
    message = refusal(url)

    assert problem in message
    for secret in ("passwd", "evil", "pass@", "alert"):
        assert secret not in message


@pytest.mark.parametrize("kind", [MediaKind.IMAGE, MediaKind.AUDIO])
def test_a_data_uri_is_stored_by_type_size_and_hash(kind: MediaKind) -> None:
    data = b"\x89PNG" * 100
    stored = check_media(as_data_uri(data, f"{kind}/x-fmt+1"), kind, PARAM, POLICY)

    digest = hashlib.sha256(data).hexdigest()
    assert stored == f"data:{kind}/x-fmt+1;bytes=400;sha256={digest}"


@given(st.binary(min_size=1, max_size=200), st.integers(1, 76), st.booleans())
def test_line_breaks_and_padding_make_no_difference(
    data: bytes,
    width: int,
    has_padding: bool,  # noqa: FBT001  # drawn by hypothesis
) -> None:
    uri = as_data_uri(data)
    head, _, payload = uri.partition(",")
    if not has_padding:
        payload = payload.rstrip("=")
    wrapped = "\r\n".join(payload[at : at + width] for at in range(0, len(payload), width))

    assert check_media(f"{head},{wrapped}\n", MediaKind.IMAGE, PARAM, POLICY) == check_media(
        uri, MediaKind.IMAGE, PARAM, POLICY
    )


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png,abcd",
        "data:image/png;charset=utf-8;base64,AAAA",
        "data:image/PNG;base64,AAAA",
        "DATA:image/png;base64,AAAA",
        "data:;base64,AAAA",
        "data:text/html;base64,AAAA",
        "data:audio/wav;base64,AAAA",
        "data:image/;base64,AAAA",
    ],
)
def test_refuses_data_uris_of_another_form(uri: str) -> None:
    assert "a data URI of another form is given, allowed are" in refusal(uri)


def test_refuses_video_inside_a_request() -> None:
    message = refusal(as_data_uri(b"mp4", "video/mp4"), MediaKind.VIDEO)

    assert "allowed are http, https and asset://<id>." in message


@pytest.mark.parametrize(
    "payload", ["A", "AAAAA", "AA-_", "AA==AAAA", "=AAA", "AAé=", "AA AA", "A===", "AAAA====AAAA"]
)
def test_refuses_what_is_not_base64(payload: str) -> None:
    assert "the data is not base64" in refusal(f"data:image/png;base64,{payload}")


@pytest.mark.parametrize("payload", ["", "\n", "="])
def test_refuses_a_data_uri_without_data(payload: str) -> None:
    message = refusal(f"data:image/png;base64,{payload}")

    assert "it holds no data" in message or "not base64" in message


def test_bounds_the_decoded_size_by_kind() -> None:
    policy = replace(POLICY, image_bytes_max=100, audio_bytes_max=10)

    assert check_media(as_data_uri(b"x" * 100), MediaKind.IMAGE, PARAM, policy)
    assert "101 bytes are given, at most 100 are allowed" in refusal(
        as_data_uri(b"x" * 101), policy=policy
    )
    assert "at most 100 bytes are allowed" in refusal(as_data_uri(b"x" * 200), policy=policy)
    wrapped = base64.encodebytes(b"x" * 100).decode().replace("\n", "\r\n")
    assert check_media(f"data:image/png;base64,{wrapped}", MediaKind.IMAGE, PARAM, policy)
    assert check_media(as_data_uri(b"x" * 10, "audio/wav"), MediaKind.AUDIO, PARAM, policy)
    assert "11 bytes are given, at most 10 are allowed" in refusal(
        as_data_uri(b"x" * 11, "audio/wav"), MediaKind.AUDIO, policy
    )


def test_a_large_data_uri_is_hashed_without_a_copy_of_it() -> None:
    data = bytes(range(256)) * (12 * 4096)
    uri = as_data_uri(data)

    tracemalloc.start()
    stored = check_media(uri, MediaKind.IMAGE, PARAM, POLICY)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert stored.endswith(hashlib.sha256(data).hexdigest())
    assert peak_bytes < len(uri) / 2


def test_a_callback_address_is_a_web_address() -> None:
    check_web_address("https://hooks.example/x", "callback_url", 100)
    for url in ("asset://a", "hooks.example", "https://a@b", "https://hooks.example/" + "x" * 99):
        with pytest.raises(InvalidRequest, match="callback_url"):
            check_web_address(url, "callback_url", 100)
