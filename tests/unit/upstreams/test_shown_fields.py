"""Which of an upstream's words about a task reach its client: none that name what is not his."""

from collections.abc import Callable, Sequence

import pytest

from gateway.domain.tasks import JsonObject, Observation, TaskError
from gateway.upstreams.reading import read_task
from gateway.upstreams.seedance import read_wrapped_task

TASK_ID = "cgt-20261122150102-q7w2x"
ODD_ID = "gen_q7w2x-55"
"""Of a shape that no vendor documents: only the task itself tells that it is an id."""
VIDEO_URL = f"https://tos.example/v/{TASK_ID}.mp4?X-Tos-Expires=86400&X-Tos-Signature=ab"
FRAME_URL = "http://tos.example/f.png?s=1"

Read = Callable[[JsonObject, Sequence[str]], tuple[str, Observation]]
DIALECTS = pytest.mark.parametrize("read", [read_task, read_wrapped_task])


def shown(task: dict[str, object], task_id: object = TASK_ID) -> JsonObject:
    return read_task({"id": task_id, "status": "succeeded", **task})[1].fields


@DIALECTS
def test_nothing_inside_a_field_tells_the_upstreams_ids(read: Read) -> None:
    task = {
        "id": TASK_ID,
        "status": "succeeded",
        "content": {
            "video_url": VIDEO_URL,
            "task_id": TASK_ID,
            "account_id": "2100",
            "note": "see https://console.example/t/1",
            "nested": {"id": "q7w2x"},
        },
        "usage": {"completion_tokens": 7, "billing_id": 12345, "tool_usage": {"web_search": 2}},
        "tools": [{"type": "web_search", "id": "ws-1"}],
        "revised_prompt": f"Boats of {TASK_ID}",
    }

    assert read(task, ())[1].fields == {
        "content": {"video_url": VIDEO_URL},
        "usage": {"completion_tokens": 7, "tool_usage": {"web_search": 2}},
        "tools": [{"type": "web_search"}],
        "revised_prompt": "Boats of [id]",
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"video_url": VIDEO_URL, "last_frame_url": FRAME_URL, "file_url": FRAME_URL}, None),
        ({"video_url": VIDEO_URL, "new": 1, "size": "480p", "tags": ["a"]}, None),
        ({"video_url": VIDEO_URL, "poster_url": FRAME_URL}, {"video_url": VIDEO_URL}),
        ({"video_url": VIDEO_URL, "traceId": "t"}, {"video_url": VIDEO_URL}),
        ({"video_url": VIDEO_URL, "a": [{"owner": {"ID": 3}}]}, {"video_url": VIDEO_URL}),
        ({"video_url": VIDEO_URL, "account": 21001}, {"video_url": VIDEO_URL}),
        ({"video_url": VIDEO_URL, "junk": "x" * 40_000}, {"video_url": VIDEO_URL}),
    ],
)
def test_content_is_its_addresses_and_what_is_harmless(
    content: dict[str, object], expected: object
) -> None:
    assert shown({"content": content})["content"] == (expected or content)


def test_fields_of_the_content_that_nobody_knows_are_counted() -> None:
    content = {"video_url": VIDEO_URL, **{f"novel_{number}": number for number in range(50)}}

    kept = shown({"content": content})["content"]

    assert isinstance(kept, dict)
    assert len(kept) == 17
    assert kept["video_url"] == VIDEO_URL


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"completion_tokens": 49005, "total_tokens": 49005}, None),
        ({"completion_tokens": 2_100_123_456}, None),
        ({"completion_tokens": 7, "prompt_tokens": 0}, None),
        ({"completion_tokens": 7, "billing": "b-1"}, {"completion_tokens": 7}),
        ({"completion_tokens": 7, "x_tokens": {"id": 1}}, {"completion_tokens": 7}),
        ({"completion_tokens": 7, "tool_usage": {"user_id": 3}}, {"completion_tokens": 7}),
        ({"completion_tokens": 7, "tool_usage": {"owner": "me"}}, {"completion_tokens": 7}),
        ({"completion_tokens": 7, "tool_usage": "x"}, {"completion_tokens": 7}),
        ({"completion_tokens": 7, f"{TASK_ID}_tokens": 1}, {"completion_tokens": 7}),
    ],
)
def test_usage_is_its_counters(usage: dict[str, object], expected: object) -> None:
    assert shown({"usage": usage}) == {"usage": expected or usage}


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([{"type": "web_search"}, {"type": "new"}], [{"type": "web_search"}, {"type": "new"}]),
        ([{"type": TASK_ID}, {"type": 1}, {}, "x", None], None),
        ({"type": "web_search"}, None),
        ("web_search", None),
    ],
)
def test_a_tool_is_its_type(tools: object, expected: object) -> None:
    assert shown({"tools": tools}).get("tools") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Boats,\n  two of them", "Boats,\n  two of them"),
        ("see " * 2000, "see " * 2000),
        (f"{ODD_ID}: boats", "[id]: boats"),
        ("on ep-20250101123456-abcde", "on [id]"),
        ("for account 2100123456", "for account [account]"),
        ("for 2100123456", "for [number]"),
        ("at https://console.example/t/1.", "at [URL]."),
        ("with sk-abcdefgh1234", "with [secret]"),
        (["boats"], None),
    ],
)
def test_a_prompt_is_cleaned_and_else_kept_as_it_is(text: object, expected: object) -> None:
    assert shown({"revised_prompt": text}, ODD_ID).get("revised_prompt") == expected


def test_the_clients_own_word_for_its_user_is_kept() -> None:
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

    assert shown({"safety_identifier": digest})["safety_identifier"] == digest
    assert shown({"safety_identifier": f"u:{TASK_ID}"})["safety_identifier"] == "u:[id]"


@pytest.mark.parametrize("task_id", [ODD_ID, 12345])
@pytest.mark.parametrize("name", ["resolution", "service_tier", "seed", "draft", "novel"])
@pytest.mark.parametrize("shape", ["of {}", ["{}"], {"a": {"b": "{}"}}, {"{}": 1}])
def test_no_field_tells_the_id_of_its_task(task_id: object, name: str, shape: object) -> None:
    def filled(value: object) -> object:
        if isinstance(value, str):
            return value.format(task_id)
        if isinstance(value, dict):
            return {filled(key): filled(inner) for key, inner in value.items()}
        return [filled(inner) for inner in value] if isinstance(value, list) else value

    assert shown({name: filled(shape)}, task_id) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 2_147_483_647), ("duration", 5), ("draft", True), ("resolution", "480p"),
     ("duration", "5"), ("subdivisionlevel", "mid")],
)  # fmt: skip
def test_numbers_and_words_that_the_contract_names_are_kept(name: str, value: object) -> None:
    assert shown({name: value}) == {name: value}


def test_every_id_of_nested_envelopes_is_hidden() -> None:
    task = {
        "code": "success",
        "data": {
            "task_id": ODD_ID,
            "id": 778899,
            "status": "SUCCESS",
            "data": {
                "id": "inner.q7w2x",
                "status": "succeeded",
                "revised_prompt": f"{ODD_ID}, 778899, inner.q7w2x, asked.q7w2x",
                "error": None,
            },
        },
    }

    found_id, observation = read_wrapped_task(task, ["asked.q7w2x"])

    assert found_id == ODD_ID
    assert observation.fields == {"revised_prompt": "[id], [id], [id], [id]"}


@DIALECTS
def test_a_failure_is_told_without_the_id_of_its_task(read: Read) -> None:
    error = {"code": "Lost", "message": f"{ODD_ID} is lost"}

    observation = read({"id": ODD_ID, "status": "failed", "error": error}, ())[1]

    assert observation.error == TaskError("Lost", "[id] is lost")


def test_a_short_number_is_no_id_worth_hiding() -> None:
    assert shown({"revised_prompt": "7 boats"}, 7) == {"revised_prompt": "7 boats"}


@DIALECTS
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"id": 12345}, "12345"),
        ({"id": 17, "task_id": TASK_ID}, TASK_ID),
        ({"task_id": 12345}, "12345"),
        ({"id": True}, ""),
        ({"id": 0}, ""),
        ({"id": -5}, ""),
        ({"id": 1.5}, ""),
        ({}, ""),
    ],
)
def test_a_task_is_known_by_its_number_where_it_has_no_other_id(
    read: Read, ids: dict[str, object], expected: str
) -> None:
    assert read({**ids, "status": "running"}, ())[0] == expected
