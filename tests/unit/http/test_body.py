import json
import time
import tracemalloc
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.http.body import LONG_STRING_BYTES, SKELETON_BYTES_MAX, JsonLimits, parse_json_object

LIMITS: Final = JsonLimits()
LONG: Final = "iVBORw0KGgo/+A" * (LONG_STRING_BYTES // 13)
MIB: Final = 1024 * 1024

_texts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from('\t\n\r"\\/'),
    max_size=12,
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts
    | st.sampled_from([LONG, LONG + "==", "\n" + LONG, LONG + "/x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)


def refusal(body: bytes, limits: JsonLimits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_json_object(body, limits)
    assert caught.value.message.startswith("the request body is not valid: ")
    assert len(caught.value.message) < 300
    return caught.value.message


@given(st.dictionaries(_texts, _values, max_size=5), st.sampled_from(["/", "\\/"]))
@example({"a": LONG, "b": [LONG, {"c": LONG}], "d": "雨😀"}, "/")
def test_reads_what_json_reads(value: dict[str, Any], slash: str) -> None:
    for is_ascii in (True, False):
        text = json.dumps(value, ensure_ascii=is_ascii).replace("/", slash)

        assert parse_json_object(text.encode(), LIMITS) == value


@given(st.binary(max_size=60) | st.text('{}[]":,\\u0d8e1tfn \n\x00\x01', max_size=40))
def test_refuses_or_agrees_with_json_and_nothing_else(raw: bytes | str) -> None:
    body = raw if isinstance(raw, bytes) else raw.encode()

    try:
        value = parse_json_object(body, LIMITS)
    except InvalidRequest:
        return
    assert value == json.loads(body.decode())


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON: Expecting value at character 0"),
        (b"{", "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":01}', "not JSON: Expecting ',' delimiter at character 6"),
        (b'{"a":1} x', "not JSON: Extra data at character 8"),
        (b"{'a':1}", "not JSON"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "byte order mark"),
        ('{"a":1}'.encode("utf-16-le"), "NUL byte at byte 1"),
        (b'{"a":"\x00"}', "NUL byte at byte 6"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xc0\xaf"}', "not UTF-8 at byte 6"),
        (b'{"a":"\x01"}', "Invalid control character"),
        (b'{"a":"\n"}', "Invalid control character"),
        (b'{"a":"\\x41"}', "not JSON: Invalid \\escape"),
        (b"[]", "an object is allowed at the top"),
        (b'"text"', "an object is allowed at the top"),
        (b"null", "an object is allowed at the top"),
        (b'{"a":1,"b":{"c":1,"c":1}}', 'the field "c" is given twice'),
        (b'{"a":1,"\\u0061":1}', 'the field "a" is given twice'),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":Infinity}', "Infinity is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b'{"a":1e999}', "a number is too large"),
        (b'{"a":-1e999}', "a number is too large"),
        (b'{"a":' + b"9" * 65 + b"}", "too many digits; 64 characters"),
        (b'{"a":0.' + b"9" * 65 + b"}", "too many digits; 64 characters"),
        (b'{"a":"\\u0000"}', 'the field "a" holds a control character'),
        (b'{"a":["\\u001F"]}', "a string of an array holds a control character"),
        (b'{"a":"\\b"}', "control character"),
        (b'{"a":"\\f"}', "control character"),
        (b'{"a":"\\ud800"}', "half a surrogate pair"),
        (b'{"a":"\\udc00\\ud800"}', "half a surrogate pair"),
        (b'{"\\u0001":1}', "a field's name is too long or holds a control character"),
        (b'{"\\ud800":1}', "a field's name is too long or holds a control character"),
    ],
)
def test_refuses_what_is_not_strict_json(body: bytes, problem: str) -> None:
    assert problem in refusal(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b' {"a" : 1 }\n', {"a": 1}),
        (b'{"a":"\\n\\t\\r\\/\\"\\\\"}', {"a": '\n\t\r/"\\'}),
        (b'{"a":"\\\\u0000"}', {"a": "\\u0000"}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":1e2,"b":-0.5,"c":-7}', {"a": 100.0, "b": -0.5, "c": -7}),
        (b'{"a":[],"b":{}}', {"a": [], "b": {}}),
        ('{"é":"\x7f\u2028"}'.encode(), {"é": "\x7f\u2028"}),
    ],
)
def test_accepts_all_of_json_but_control_characters(body: bytes, value: dict[str, object]) -> None:
    assert parse_json_object(body, LIMITS) == value


@pytest.mark.parametrize("depth", [1, 2, 31, 32])
def test_accepts_nesting_up_to_the_limit(depth: int) -> None:
    body = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)

    assert parse_json_object(body, LIMITS) is not None


@pytest.mark.parametrize("depth", [32, 33, 100, 5_000, 40_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_refuses_deeper_nesting(depth: int, opening: bytes, closing: bytes) -> None:
    body = b'{"a":' + opening * depth + b"1" + closing * depth + b"}"

    assert "nested too deeply; 32 levels are allowed" in refusal(body)


def test_brackets_in_a_string_are_no_nesting() -> None:
    assert parse_json_object(b'{"a":"' + b"[" * 500 + b'"}', LIMITS) == {"a": "[" * 500}


def test_refuses_more_values_than_allowed() -> None:
    limits = JsonLimits(tokens_max=10)

    assert parse_json_object(b'{"a":[1,2,3,4,5,6,7,8]}', limits)
    assert "too many values; 10 are allowed" in refusal(b'{"a":[1,2,3,4,5,6,7,8,9,10]}', limits)


def test_an_error_shows_a_field_name_cleaned_and_cut() -> None:
    name = "\x1b[31m".replace("\x1b", "\\u2066") + "n" * 500

    message = refusal(f'{{"{name}":1,"{name}":2}}'.encode())

    assert '"[31m' + "n" * 20 in message
    assert "\u2066" not in message


def test_an_error_repeats_no_value() -> None:
    secret = "prompt-that-nobody-may-see"

    for body in (
        f'{{"a":"{secret}',
        f'{{"a":"{secret}" 1}}',
        f'{{"a":"{secret}\\u0000"}}',
        f'{{"a":{secret}}}',
        f'{{"a":"{secret}{LONG}é"}}',
    ):
        assert secret not in refusal(body.encode())


# --- long strings -------------------------------------------------------------------------------


def test_refuses_a_long_string_outside_ascii() -> None:
    assert "only data URIs may be that long" in refusal(f'{{"a":"{LONG}é"}}'.encode())


@pytest.mark.parametrize("escape", ["\\u00e9", "\\ud83d\\ude00", "\\u0000", "\\b", "\\\\", '\\"'])
def test_refuses_a_long_string_with_other_escapes_than_a_data_uri_needs(escape: str) -> None:
    assert "only data URIs may be that long" in refusal(f'{{"a":"{LONG}{escape}"}}'.encode())


def test_refuses_a_raw_control_character_in_a_long_string() -> None:
    assert "only data URIs may be that long" in refusal(f'{{"a":"{LONG}\x1f"}}'.encode())


def test_accepts_the_escapes_that_encoders_use_in_data_uris() -> None:
    body = f'{{"a":"{LONG}\\/\\u002b\\u003D\\r\\n"}}'

    assert parse_json_object(body.encode(), LIMITS) == {"a": f"{LONG}/+=\r\n"}


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 64, 65, 1_000, 1_001])
def test_backslashes_before_a_quote_are_paired_in_large_bodies(count: int) -> None:
    run = "\\" * count
    for end in ('x"', '"'):
        body = f'{{"long":"{LONG}","a":"{run}{end}}}'.encode()
        try:
            expected = json.loads(body)
        except ValueError:
            assert refusal(body)
        else:
            assert parse_json_object(body, LIMITS) == expected


@pytest.mark.parametrize("forged", ['"\\u00010"', '"\\u00011"', '"\\u0001"', '["\\u00010"]'])
def test_a_placeholder_can_not_be_forged(forged: str) -> None:
    for body in (f'{{"a":{forged},"b":"{LONG}"}}', f'{{"b":"{LONG}","a":{forged}}}'):
        assert "control character" in refusal(body.encode())


def test_refuses_a_field_name_as_long_as_a_data_uri() -> None:
    assert "a field's name is too long" in refusal(f'{{"{LONG}":1}}'.encode())


def test_refuses_a_long_string_that_does_not_end() -> None:
    assert "a string has no end" in refusal(f'{{"a":"{LONG}'.encode())


def test_refuses_a_large_body_without_long_strings() -> None:
    body = b'{"a":' + b" " * SKELETON_BYTES_MAX + b"1}"

    assert f"beside its data URIs it holds more than {SKELETON_BYTES_MAX}" in refusal(body)


def test_errors_in_bodies_with_long_strings_give_no_wrong_position() -> None:
    assert refusal(f'{{"a":"{LONG}",}}'.encode()).count("at character") == 0
    assert refusal(f'{{"a":"{LONG}"}}'.encode() + b"\xff").endswith("it is not UTF-8.")


@pytest.mark.parametrize(
    ("prompt", "slash", "copies_max"), [("a fox", "/", 2), ("雨😀", "/", 2), ("雨", "\\/", 3.5)]
)
def test_a_large_body_is_parsed_in_few_copies(prompt: str, slash: str, copies_max: float) -> None:
    image = ("iVBORw0KGgoAAAANSUhEUgAA" + slash + "5") * (12 * MIB // 26)
    body = f'{{"prompt":"{prompt}","url":"{image}"}}'.encode()

    tracemalloc.start()
    value = parse_json_object(body, LIMITS)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert value == {"prompt": prompt, "url": image.replace("\\/", "/")}
    assert (len(body) + peak_bytes) / len(body) < copies_max + 0.1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"' + b'\\"' * (4 * MIB) + b'"}',
        b'{"a":"' + b"\\" * (8 * MIB) + b'"}',
        b'{"a":"' + (b"\\" * 64 + b'"') * (128 * 1024) + b'"}',
        b'"' * (8 * MIB),
        b"[" * (7 * MIB),
        b'{"a":[' + b"{}," * (2 * MIB),
        b'{"a":' + b"9" * (7 * MIB) + b"}",
        b'{"a":"' + b"\\u0000" * MIB + b'"}',
        b'{"a":' + b'"x",' * (2 * MIB) + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_hostile_bodies_are_refused_in_time_in_proportion_to_their_size(body: bytes) -> None:
    started_s = time.process_time()

    refusal(body)

    # Each of these takes minutes where the work grows with the square of the size.
    assert time.process_time() - started_s < 5
