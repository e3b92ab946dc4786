import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.cleaning import (
    TEXT_CHARS_MAX,
    clean_code,
    clean_param,
    clean_text,
    reveals_internals,
)

REQUEST_ID = "021795330862123456a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6f7"
DURATION = "the parameter duration specified in the request is not valid for model doubao-seedance"

CLEANED = [
    (f"{DURATION} in i2v. Request id: {REQUEST_ID}", f"{DURATION} in i2v."),
    (f"{DURATION} in i2v (Request ID: {REQUEST_ID}).", f"{DURATION} in i2v"),
    ("no. request_id=abc-1.2", "no."),
    ("Your account 2100123456 has not activated it", "Your account [account] has not activated it"),
    ("account ID: 21001 is overdue", "account ID: [account] is overdue"),
    ("\u8d26\u53f7 2100123456 \u6b20\u8d39", "\u8d26\u53f7 [account] \u6b20\u8d39"),
    ("owner 21001234567 said", "owner [number] said"),
    ("cannot delete task cgt-20261122150102-q7w2x now", "cannot delete task [id] now"),
    ("The endpoint ep-20250101123456-abcde is closed", "The endpoint [id] is closed"),
    ("task task_AbC123dEf456 failed", "task [id] failed"),
    ("key 0d9f5a3e-1b2c-4d5e-8f90-a1b2c3d4e5f6 bad", "key [id] bad"),
    (f"see {REQUEST_ID} for more", "see [id] for more"),
    ("trace 0123456789abcdef0123456789abcdef", "trace [id]"),
    (
        "timeout while fetching https://img.example/boat.png?X-Signature=ab (5 s).",
        "timeout while fetching [URL] (5 s).",
    ),
    ("dial tos://bucket/key?sig=1, retry", "dial [URL], retry"),
    ("POST to ark.cn-beijing.volces.com/api/v3 failed", "POST to [URL] failed"),
    ("dial tcp 10.0.12.7:8080: refused", "dial tcp [URL]: refused"),
    ("got data:image/png;base64,iVBORw0KGgo= here", "got [data] here"),
    ("bad header Bearer abc.def-ghi", "bad header [secret]"),
    ("Incorrect API key provided: sk-abcdefgh1234", "Incorrect API key provided: [secret]"),
    ("one\r\ntwo\tthree\x1b[31m\u202efour\x00", "one two three [31m four"),
    ("  much   space  ", "much space"),
    ("", ""),
]
UNCHANGED = [
    "`content[6]`: video duration (seconds) must be <= 15.2 for model doubao-seedance-2-0 in r2v",
    "The parameter `content` specified in the request is not valid: role must be specified.",
    "The model doubao-seedance-1-0-pro-250528 does not exist or you do not have access to it.",
    "pixels must be between 407696 and 8295044, 10000000 given",
    "the specified asset asset-20260101 is not found",
    "asset://asset-1 is not found",
    "step-by-step, 16:9, --ratio 9:21",
    "\u53c2\u6570 duration \u4e0d\u5408\u6cd5\u3002",
]


@pytest.mark.parametrize(("text", "expected"), CLEANED)
def test_takes_out_what_clients_must_not_see(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize("text", UNCHANGED)
def test_keeps_what_helps_a_client(text: str) -> None:
    assert clean_text(text) == text
    assert not reveals_internals(text)


@given(st.text())
def test_cleaned_text_is_one_short_printable_line_without_internals(text: str) -> None:
    cleaned = clean_text(text)

    assert len(cleaned) <= TEXT_CHARS_MAX
    assert cleaned == "" or cleaned.isprintable()
    assert cleaned == cleaned.strip()


def test_long_text_is_cut() -> None:
    assert clean_text("word " * 10_000) == ("word " * 200).strip()


@pytest.mark.parametrize(
    "unit",
    [" ", "a", "-", ".", "1", "a.", "a://", "a://.", "request id", "data:", "cgt-", "1.1.", "(",
     "=", "bearer ", "account ", "a-1.com/"],
)  # fmt: skip
def test_hostile_text_costs_little(unit: str) -> None:
    started_s = time.process_time()

    clean_text(unit * (4_000_000 // len(unit)))

    assert time.process_time() - started_s < 0.5


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("InvalidParameter.TaskTypeConstraint", "InvalidParameter.TaskTypeConstraint"),
        ("fail_to_fetch_task", "fail_to_fetch_task"),
        ("", ""),
        ("two words", ""),
        ("x" * 129, ""),
        ("cgt-20261122150102-q7w2x", ""),
        ("a\nb", ""),
        ("400", ""),
    ],
)
def test_codes_are_plain_words(code: str, expected: str) -> None:
    assert clean_code(code) == expected


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("content[1].image_url", "content[1].image_url"),
        ("", ""),
        ("a b", ""),
        ("<script>", ""),
        ("ep-20250101-abcde", ""),
        ("x" * 129, ""),
    ],
)
def test_params_are_paths(param: str, expected: str) -> None:
    assert clean_param(param) == expected
