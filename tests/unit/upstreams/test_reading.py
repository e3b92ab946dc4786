"""What answers say about tasks, and that nothing an upstream sends can hurt."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.tasks import JsonObject, Observation, TaskError
from gateway.errors import UpstreamAmbiguous, UpstreamFault, UpstreamUnavailable
from gateway.upstreams.answers import Answer, parse_json
from gateway.upstreams.reading import read_items, read_object, read_submission, read_task
from gateway.upstreams.seedance import read_wrapped_task

TASK_ID = "cgt-20261122150102-q7w2x"
VIDEO_URL = "https://tos.example/v/q7w2x.mp4?X-Tos-Expires=86400&X-Tos-Signature=ab"

SUCCEEDED: dict[str, object] = {
    "id": TASK_ID,
    "model": "doubao-seedance-1-0-pro-250528",
    "status": "succeeded",
    "content": {"video_url": VIDEO_URL},
    "usage": {"completion_tokens": 49005, "total_tokens": 49005},
    "created_at": 1795330862,
    "updated_at": 1795330941,
    "seed": 51877,
    "resolution": "480p",
    "ratio": "16:9",
    "duration": 5,
    "framespersecond": 24,
    "service_tier": "default",
    "execution_expires_after": 172800,
}
SEEN = {
    name: SUCCEEDED[name]
    for name in SUCCEEDED
    if name not in {"id", "model", "status", "created_at", "updated_at"}
}


def ok(value: object, status: int = 200, **headers: str) -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Answer(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


@pytest.mark.parametrize("status", [200, 201, 202, 299])
@pytest.mark.parametrize(
    "value",
    [
        {"id": TASK_ID},
        {"id": TASK_ID, "message": "YEScale - Seedance Video Generation - Submit"},
        {"id": TASK_ID, "status": "submitted", "safety_identifier": "u"},
        {"id": TASK_ID, "error": None},
        {"id": TASK_ID, "error": {"code": "", "message": ""}},
        {"task_id": TASK_ID, "object": "video", "status": "queued", "progress": 0},
        {"id": 17, "task_id": TASK_ID},
        {"code": 0, "message": "ok", "data": {"task_id": TASK_ID, "status": "pending"}},
        {"code": "success", "message": "", "data": {"id": TASK_ID}},
        {"code": 200, "message": "OK", "data": {"data": {"id": TASK_ID}}},
        {"code": "success", "message": "", "data": TASK_ID},
    ],
)
def test_any_2xx_with_an_id_is_an_acceptance(status: int, value: object) -> None:
    assert read_submission(ok(value, status), definite_5xx=False).upstream_task_id == TASK_ID


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"<html>accepted</html>",
        b'{"id":"cgt-2026',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"id":"x-1","n":NaN}',
        b'{"id":"\\ud800"}',
        None,
        [],
        [{"id": TASK_ID}],
        TASK_ID,
        {},
        {"id": None},
        {"id": ""},
        {"id": 0},
        {"id": -17},
        {"id": True},
        {"id": 17.5},
        {"id": 10**30},
        {"id": ["x"]},
        {"id": "../files"},
        {"id": "a/b"},
        {"id": "a b"},
        {"id": "x" * 201},
        {"id": "a\r\nX: y"},
        {"data": "success"},
        {"data": "a/b-12345678"},
        {"data": 1},
        {"error": {"code": "InternalServiceError", "message": "oops"}},
        {"id": TASK_ID, "error": {"code": "InternalServiceError", "message": "oops"}},
        {"code": "fail_to_fetch_task", "message": "oops", "data": None},
        {"code": "fail_to_fetch_task", "message": "oops", "data": TASK_ID},
        {"code": 500, "message": "oops", "id": TASK_ID},
        {"data": {"data": {"data": {"data": {"id": TASK_ID}}}}},
    ],
)
def test_a_2xx_without_a_clear_id_is_ambiguous(value: object) -> None:
    with pytest.raises(UpstreamAmbiguous):
        read_submission(ok(value), definite_5xx=True)


@pytest.mark.parametrize(
    "value",
    [
        {"id": 12345678},
        {"task_id": 12345678},
        {"code": 0, "message": "ok", "data": {"id": 12345678}},
        {"code": "success", "data": {"data": {"task_id": 12345678}}},
        {"code": 200, "data": 12345678},
    ],
)
def test_a_number_is_an_id_too(value: object) -> None:
    assert read_submission(ok(value), definite_5xx=False).upstream_task_id == "12345678"


def test_an_id_of_letters_is_preferred_to_the_number_of_a_row() -> None:
    value = {"id": 17, "data": {"id": 18, "task_id": TASK_ID}}

    assert read_submission(ok(value), definite_5xx=False).upstream_task_id == TASK_ID


@pytest.mark.parametrize(
    ("value", "noted"),
    [
        ({"id": "a/b-77"}, "a/b-77"),
        ({"id": TASK_ID, "error": {"code": "C", "message": "oops"}}, TASK_ID),
        ({"code": 500, "message": "oops", "id": 12345}, "12345"),
        ({"data": {"data": {"data": {"data": {"task_id": TASK_ID}}}}}, TASK_ID),
        ({"data": "a/b-12345678"}, "a/b-12345678"),
        ([{"taskId": TASK_ID}], TASK_ID),
        (b'{"id":"cgt-2026', "cgt-2026"),
        (b'{"id":"x-1","n":NaN}', "x-1"),
        (b'{"id" : "x\xff\x1b\x00-1"}', "x\ufffd  -1"),
        ({"id": "x" * 300}, "x" * 200),
        ([{"id": number} for number in range(11, 99)], "11, 12, 13, 14"),
    ],
)
def test_an_id_that_is_not_taken_is_noted_for_the_operator(value: object, noted: str) -> None:
    with pytest.raises(UpstreamAmbiguous) as caught:
        read_submission(ok(value, 201, x_request_id="0217-abc"), definite_5xx=True)

    assert caught.value.__notes__ == [
        f"upstream answered 201 with id {noted}",
        "upstream request id 0217-abc",
    ]
    assert noted not in caught.value.message


def test_an_answer_without_any_id_has_no_note() -> None:
    with pytest.raises(UpstreamAmbiguous) as caught:
        read_submission(ok({"status": "queued"}), definite_5xx=True)

    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    ("header", "expected"),
    [("0217-abc", "0217-abc"), ("", None), ("a b", None), ("x" * 129, None), ("a\nb", None)],
)
def test_a_fit_request_id_is_kept(header: str, expected: str | None) -> None:
    submission = read_submission(ok({"id": TASK_ID}, x_request_id=header), definite_5xx=False)

    assert submission.upstream_request_id == expected


@pytest.mark.parametrize("read", [read_task, read_wrapped_task])
def test_a_task_shows_its_fields_and_none_that_are_ours_or_nobodys(
    read: Callable[[JsonObject], tuple[str, Observation]],
) -> None:
    task = {
        **SUCCEEDED,
        "draft_task_id": "cgt-20261122150102-aaaaa",
        "callback_url": "https://gateway.example/cb/1",
        "message": "YEScale",
        "request": {"model": "m", "content": []},
        "gateway": {"cost_micros": 1},
        "error": None,
        "revised_prompt": None,
    }

    assert read(task) == (TASK_ID, Observation("succeeded", SEEN))


def test_a_running_task_without_content_shows_none() -> None:
    task: JsonObject = {
        "id": TASK_ID,
        "status": "running",
        "content": {},
        "usage": None,
        "error": None,
    }

    assert read_task(task) == (TASK_ID, Observation("running", {}))


@pytest.mark.parametrize("status", ["queued", "running", "preparing", "SUCCEEDED", "\u6392\u961f"])
def test_a_status_word_is_kept_as_it_is(status: str) -> None:
    assert read_task({"id": TASK_ID, "status": status})[1].status == status


@pytest.mark.parametrize("status", [None, 1, ["failed"], {"a": 1}, True])
def test_a_status_that_is_no_word_is_no_news(status: object) -> None:
    task = {**SUCCEEDED, "status": status}

    assert read_task(task) == (TASK_ID, Observation("", {}))
    assert read_wrapped_task(task) == (TASK_ID, Observation("", {}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {
                "error": {
                    "code": "OutputVideoSensitiveContentDetected",
                    "message": f"The video of {TASK_ID} is unfit. Request id: 0217953abc",
                }
            },
            TaskError("OutputVideoSensitiveContentDetected", "The video of [id] is unfit."),
        ),
        ({"error": {"message": "lost"}}, TaskError("InternalServiceError", "lost")),
        ({"error": {"code": "Lost"}}, TaskError("Lost", "The upstream gave no reason.")),
        ({"error": "lost"}, TaskError("InternalServiceError", "lost")),
        ({"failure_reason": "lost"}, TaskError("InternalServiceError", "lost")),
        ({"failure_reason": {"code": "Lost", "message": "x"}}, TaskError("Lost", "x")),
        ({"error": None, "fail_reason": "lost"}, TaskError("InternalServiceError", "lost")),
        ({"error": {}}, None),
        ({"error": {"code": "", "message": ""}}, None),
        ({"error": []}, None),
        ({}, None),
    ],
)
def test_a_failed_task_says_why_in_clean_words(
    fields: dict[str, object], expected: TaskError | None
) -> None:
    assert read_task({"id": TASK_ID, "status": "failed", **fields})[1].error == expected


def test_a_left_over_error_of_a_success_is_not_shown() -> None:
    task = {**SUCCEEDED, "error": {"code": "Retried", "message": "once"}}

    assert read_task(task)[1].error is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trace", TASK_ID),
        ("nested", {"a": [{"b": TASK_ID}]}),
        ("endpoint", "ep-20250101123456-abcde"),
        ("origin", "https://internal.example/x"),
        ("account", "account 2100123456"),
        ("user_id", "7"),
        ("task_id", TASK_ID),
        ("two words", 1),
        ("<b>", 1),
        ("x" * 65, 1),
        ("large", "x" * 5000),
        ("nul", "a\x00b"),
        ("escape", "\x1b[31m"),
        ("a_key", {"\x00": 1}),
        ("vast", 1e300),
        ("wide", list(range(300))),
    ],
)
def test_unknown_fields_that_tell_too_much_or_are_unsafe_are_left_out(
    name: str, value: object
) -> None:
    assert read_task({"id": TASK_ID, "status": "running", name: value})[1].fields == {}


def test_unknown_fields_that_are_harmless_pass_up_to_a_count() -> None:
    novel: dict[str, object] = {f"novel_{number}": number for number in range(50)}

    fields = read_task({"id": TASK_ID, "status": "running", **novel})[1].fields

    assert len(fields) == 16
    assert set(fields.items()) < set(novel.items())


def test_known_fields_are_bounded_too() -> None:
    task = {"id": TASK_ID, "status": "running", "revised_prompt": "x" * 40_000, "seed": 7}
    deep: object = 1
    for _ in range(20):
        deep = [deep]

    assert read_task(task)[1].fields == {"seed": 7}
    assert read_task({"id": TASK_ID, "status": "running", "usage": deep})[1].fields == {}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "text",
        [],
        {"video_url": "javascript:alert(1)"},
        {"video_url": 1},
        {"video_url": None},
        {"video_url": "https://x.example/" + "a" * 40_000},
        {"video_url": "https://x.example/\x00"},
    ],
)
def test_content_that_leads_nowhere_is_left_out(content: object) -> None:
    assert "content" not in read_task({**SUCCEEDED, "content": content})[1].fields


def test_content_keeps_signed_addresses_whole_and_fields_it_does_not_know() -> None:
    content = {"video_url": VIDEO_URL, "last_frame_url": "http://x.example/f.png?s=1", "new": 1}

    assert read_task({**SUCCEEDED, "content": content})[1].fields["content"] == content


WRAPPED: dict[str, tuple[dict[str, object], Observation]] = {
    "content-array on the video path": (
        {"id": TASK_ID, "model": "m", "status": "processing", "created_at": 1},
        Observation("running", {}),
    ),
    "data, completed": (
        {
            "code": 0,
            "message": "ok",
            "data": {"task_id": TASK_ID, "status": "completed", "video_url": VIDEO_URL},
        },
        Observation("succeeded", {"content": {"video_url": VIDEO_URL}}),
    ),
    "legacy video, with the vendor's object": (
        {
            "code": "success",
            "message": "",
            "data": {
                "task_id": TASK_ID,
                "status": "SUCCESS",
                "progress": "100%",
                "fail_reason": "",
                "result_url": VIDEO_URL,
                "submit_time": 1,
                "data": {**SUCCEEDED, "id": "cgt-20261122150102-zzzzz"},
            },
        },
        Observation("succeeded", SEEN),
    ),
    "legacy video, without it": (
        {
            "code": "success",
            "data": {
                "task_id": TASK_ID,
                "status": "SUCCESS",
                "result_url": VIDEO_URL,
                "data": None,
            },
        },
        Observation("succeeded", {"content": {"video_url": VIDEO_URL}}),
    ),
    "legacy video, an end that only the vendor's object knows": (
        {
            "code": "success",
            "data": {
                "task_id": TASK_ID,
                "status": "IN_PROGRESS",
                "data": {"id": "x", "status": "expired"},
            },
        },
        Observation("expired", {}),
    ),
    "legacy video, an end that only the reseller knows": (
        {
            "code": "success",
            "data": {
                "task_id": TASK_ID,
                "status": "FAILURE",
                "fail_reason": "timeout",
                "data": {"id": "x", "status": "running"},
            },
        },
        Observation("failed", {}, TaskError("InternalServiceError", "timeout")),
    ),
    "openai video": (
        {
            "id": TASK_ID,
            "object": "video",
            "status": "completed",
            "metadata": {"url": VIDEO_URL},
        },
        Observation("succeeded", {"content": {"video_url": VIDEO_URL}}),
    ),
    "openai video, failed": (
        {
            "id": TASK_ID,
            "object": "video",
            "status": "failed",
            "error": {"code": "C", "message": "m"},
        },
        Observation("failed", {}, TaskError("C", "m")),
    ),
    "an unknown word": ({"id": TASK_ID, "status": "Baking"}, Observation("Baking", {})),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_resellers_envelopes_are_opened(case: str) -> None:
    task, expected = WRAPPED[case]

    assert read_wrapped_task(task) == (TASK_ID, expected)


@pytest.mark.parametrize("value", [None, [], [1], "text", 7, True, {}, {"code": 0, "data": []}])
def test_a_foreign_answer_is_no_news(value: object) -> None:
    read = read_object(ok(value))

    assert read_task(read)[1] == Observation("", {})
    assert read_wrapped_task(read)[1] == Observation("", {})


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{", b'{"status":NaN}', b'{"a":"\\udc00"}', b"[" * 5000, b"\xff"]
)
def test_an_answer_that_is_no_json_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamUnavailable):
        read_object(Answer(200, body))


@pytest.mark.parametrize(
    "value", [[], {}, {"items": None}, {"items": {}}, {"total": 0}, {"data": []}, None, "x"]
)
def test_a_list_without_items_is_a_fault_and_no_proof_of_absence(value: object) -> None:
    with pytest.raises(UpstreamUnavailable):
        read_items(ok(value))


def test_foreign_items_of_a_list_are_skipped() -> None:
    listed = {"total": 9, "items": [None, 1, "x", [], SUCCEEDED]}

    assert list(read_items(ok(listed))) == [SUCCEEDED]
    assert list(read_items(ok({"code": 0, "data": listed}))) == [SUCCEEDED]


hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner)
    | st.dictionaries(
        st.sampled_from(
            ["id", "task_id", "status", "content", "usage", "error", "data", "items", "video_url",
             "metadata", "fail_reason", "code", "message", "seed"]
        )
        | st.text(),
        inner,
    ),
    max_leaves=25,
)  # fmt: skip


@given(value=hostile, status=st.sampled_from(["queued", "SUCCESS", "failed", "\x00", ""]))
def test_any_answer_is_read_without_a_crash(value: object, status: str) -> None:
    body = json.dumps(value).encode()
    parsed = parse_json(body)
    task: JsonObject = parsed if isinstance(parsed, dict) else {"data": parsed}
    for read in (read_task, read_wrapped_task):
        for given_task in (task, {**task, "status": status}):
            _, observation = read(given_task)
            json.dumps(observation.fields, allow_nan=False).encode()
            assert len(json.dumps(observation.fields)) < 1_000_000
    for read_answer in (read_object, read_items):
        try:
            read_answer(Answer(200, body))
        except UpstreamFault as fault:
            assert fault.message  # noqa: PT017 - either outcome is right
    try:
        read_submission(Answer(200, body), definite_5xx=False)
    except UpstreamAmbiguous as fault:
        assert fault.message  # noqa: PT017 - either outcome is right
