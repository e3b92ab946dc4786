import hashlib
import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.callbacks import (
    BODY_BYTES_MAX,
    NO_CLAIM,
    Claim,
    Hint,
    callback_path,
    hash_token,
    is_token,
    judge,
    make_token,
    read_claim,
)
from gateway.domain.tasks import TERMINAL, Route, Task, TaskId, TaskState
from gateway.ids import is_upstream_task_id


def test_a_token_carries_160_bits() -> None:
    ones = make_token(lambda size: b"\xff" * size)
    zeros = make_token(lambda size: b"\x00" * size)
    numbers = count()
    mixed = make_token(lambda size: bytes(next(numbers) for _ in range(size)))

    assert len(ones) == len(zeros) == len(mixed) == 32
    assert len(set(mixed)) == 32  # 32 characters, five bits each
    assert is_token(ones)
    assert is_token(zeros)
    assert is_token(mixed)
    assert callback_path(mixed) == f"/callbacks/{mixed}"


@pytest.mark.parametrize(
    "text",
    ["", "a" * 31, "a" * 33, "A" * 32, "a" * 31 + "1", "a" * 31 + "\n", "a" * 32 + "\n", "é" * 32],
)
def test_anything_else_has_not_the_shape_of_a_token(text: str) -> None:
    assert not is_token(text)


def test_only_the_hash_of_a_token_is_stored() -> None:
    token = make_token(lambda size: bytes(range(size)))

    assert hash_token(token) == hashlib.sha256(token.encode()).hexdigest()
    assert hash_token(token) != hash_token(token[::-1])
    assert token not in hash_token(token)


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"cgt-20260101-abcde"}',
        b' {"id": "cgt-20260101-abcde", "status": "succeeded", "usage": {"total_tokens": 1}}\n',
        b'{"id":"other","id":"cgt-20260101-abcde"}',
        json.dumps({"id": "cgt-20260101-abcde", "pad": "x" * 60_000}).encode(),
    ],
)
def test_the_claimed_id_is_read(body: bytes) -> None:
    assert read_claim(body).upstream_task_id == "cgt-20260101-abcde"


def test_the_claimed_status_is_read_too() -> None:
    assert read_claim(b'{"id":"up-1","status":"running"}') == Claim("up-1", "running")
    assert read_claim(b'{"id":7,"status":["running"]}') == NO_CLAIM
    assert read_claim(b'{"status":"failed"}') == Claim(None, "failed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'"cgt-20260101-abcde"',
        b'["cgt-20260101-abcde"]',
        b"{}",
        b'{"id":null}',
        b'{"id":7}',
        b'{"id":["cgt-20260101-abcde"]}',
        b'{"task":{"id":"cgt-20260101-abcde"}}',
        b'{"id":""}',
        b'{"id":"a/../b"}',
        b'{"id":"a%2fb"}',
        b'{"id":"a b"}',
        b'{"id":"a\\nb"}',
        b'{"id":"a\\u0000"}',
        b'{"id":"' + b"a" * 201 + b'"}',
        b'{"id":"cgt-20260101-abcde"',
        b'\xff\xfe{"id":"cgt-20260101-abcde"}',
        '{"id":"cgt-20260101-abcde"}'.encode("utf-16"),
        b"[" * 60_000,
        b'{"id":' * 9_000,
        b'{"id":' + b"9" * 5_000 + b"}",
        b'{"id":"cgt-20260101-abcde","pad":"' + b"x" * BODY_BYTES_MAX + b'"}',
    ],
)
def test_from_any_other_body_nothing_is_taken(body: bytes) -> None:
    assert read_claim(body) == NO_CLAIM


@given(st.binary(max_size=200) | st.from_type(dict[str, str]).map(lambda v: json.dumps(v).encode()))
def test_whatever_comes_is_no_claim_or_an_id_that_fits_into_a_path(body: bytes) -> None:
    claimed_id = read_claim(body).upstream_task_id

    assert claimed_id is None or is_upstream_task_id(claimed_id)


def a_task(state: TaskState) -> Task:
    return Task(
        id=TaskId("cgt-20261122150102-" + "a" * 20),
        project_id="proj_1",
        key_id="key_1",
        model="seedance",
        family="seedance",
        route=Route("fake", "default", "seedance"),
        state=state,
        version=1,
        created_at_ms=1,
        updated_at_ms=1,
        submit_deadline_at_ms=2,
        expires_at_ms=3,
    )


@pytest.mark.parametrize(
    ("state", "claim", "hint"),
    [
        ("reserved", Claim("up-1", "queued"), Hint.EARLY),
        ("reserved", NO_CLAIM, Hint.EARLY),
        ("unknown", Claim("up-1", "running"), Hint.CLAIM),
        ("unknown", Claim(None, "running"), Hint.NO_NEWS),
        ("queued", Claim("up-1", "queued"), Hint.NO_NEWS),
        ("queued", Claim("up-1", "running"), Hint.NEWS),
        ("queued", Claim("up-1", "expired"), Hint.NEWS),
        ("running", Claim("up-1", "queued"), Hint.NO_NEWS),
        ("running", Claim("up-1", "running"), Hint.NO_NEWS),
        ("running", Claim("another", "succeeded"), Hint.NEWS),
        ("running", Claim("up-1", "a new word"), Hint.NEWS),
        ("running", NO_CLAIM, Hint.NEWS),
        *((state.value, Claim("up-1", "succeeded"), Hint.LATE) for state in sorted(TERMINAL)),
    ],
)
def test_a_callback_is_good_for_a_look_at_most(state: str, claim: Claim, hint: Hint) -> None:
    assert judge(a_task(TaskState(state)), claim) is hint
