import random
import re
import secrets
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.keys import Key, KeyKind, Principal, digest, generate, kind_of, matches, parse

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
PEPPER = b"a pepper of some length"


def check_of(body: str) -> str:
    """The check by the book: CRC32 in base62, zero-padded to six."""
    value, text = zlib.crc32(body.encode()), ""
    while value:
        text = BASE62[value % 62] + text
        value //= 62
    return text.rjust(6, "0")


@pytest.mark.parametrize("kind", KeyKind)
def test_a_key_has_the_published_shape(kind: KeyKind) -> None:
    key = generate(secrets.token_bytes, kind=kind)

    assert re.fullmatch(rf"sg_{kind}_[0-9A-Za-z]{{61}}", key)
    assert key[-6:] == check_of(key[:-6])
    assert parse(key) == key[8:20]
    assert kind_of(key) is kind


def test_a_wrong_character_anywhere_is_noticed_before_any_look_up() -> None:
    key = generate(secrets.token_bytes)

    for index in range(8, len(key)):
        other = "b" if key[index] == "a" else "a"
        assert parse(key[:index] + other + key[index + 1 :]) is None


@given(st.text())
def test_random_text_is_no_key(text: str) -> None:
    assert parse(text) is None


def test_the_check_keeps_its_leading_zeros() -> None:
    source = random.Random(7)
    keys = [generate(source.randbytes) for _ in range(400)]

    assert all(key[-6:] == check_of(key[:-6]) for key in keys)
    assert any(key[-6] == "0" for key in keys)


def test_the_digest_depends_on_key_and_pepper() -> None:
    key, other = generate(secrets.token_bytes), generate(secrets.token_bytes)

    assert matches(PEPPER, key, digest(PEPPER, key))
    assert not matches(PEPPER, other, digest(PEPPER, key))
    assert not matches(b"another pepper altogether", key, digest(PEPPER, key))
    assert len(digest(PEPPER, key)) == 32


def test_a_key_ends_at_its_expiry_and_at_its_revocation() -> None:
    def a_key(expires_at_ms: int | None = None, revoked_at_ms: int | None = None) -> Key:
        return Key("id", "proj", "", b"", 0, KeyKind.LIVE, expires_at_ms, revoked_at_ms)

    assert a_key().is_valid(10**15)
    assert a_key(expires_at_ms=100).is_valid(99)
    assert not a_key(expires_at_ms=100).is_valid(100)
    assert not a_key(revoked_at_ms=100).is_valid(100)
    assert not a_key(revoked_at_ms=100).is_valid(99)


def test_an_empty_allow_list_allows_every_model() -> None:
    assert Principal("p", "k").may_use("anything")
    assert Principal("p", "k", ("a",)).may_use("a")
    assert not Principal("p", "k", ("a",)).may_use("b")
