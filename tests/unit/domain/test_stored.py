import base64
import hashlib
import json
from typing import Any, Final

import pytest

from gateway.domain.stored import (
    echo,
    fingerprint,
    hash_texts,
    stored_form,
    strip_media_queries,
)
from tests.support.requests import V20, V25, a_text, a_video, an_image, normalized

DATA: Final = b"\x89PNG data of an image"
DATA_URI: Final = "data:image/png;base64," + base64.b64encode(DATA).decode()
DATA_STORED: Final = f"data:image/png;bytes={len(DATA)};sha256={hashlib.sha256(DATA).hexdigest()}"
SIGNED_URL: Final = "https://img.example/boat.png?sig=hidden#hidden"
DRAFT_TASK: Final = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}


def sha256(text: str) -> str:
    return f"sha256={hashlib.sha256(text.encode()).hexdigest()}"


def stored(*content: object, **fields: Any) -> dict[str, Any]:
    form = stored_form(normalized(*content, **fields))
    round_trip: dict[str, Any] = json.loads(json.dumps(form))
    assert round_trip == form
    return round_trip


def test_the_stored_form_is_the_normalized_body() -> None:
    form = stored(
        a_text("a fox --dur 5 --rt 9:21"),
        an_image(),
        spare={"x": 1},
        callback_url="https://hooks.example/x",
        seed=None,
    )

    assert form == {
        "model": "doubao-seedance-1-0-pro-250528",
        "content": [a_text("a fox"), an_image()],
        "duration": 5,
        "ratio": "9:21",
        "spare": {"x": 1},
        "callback_url": "https://hooks.example/x",
    }
    assert "callback_url" not in stored()
    assert stored(model=V20, tools=[{"type": "web_search"}])["tools"] == [{"type": "web_search"}]


def test_a_stored_request_normalizes_to_itself() -> None:
    request = normalized(
        a_text("a fox --rs 480p"), an_image("first_frame"), ratio="keep_ratio", spare=1
    )
    form: dict[str, Any] = stored_form(request)
    content = form.pop("content")

    assert normalized(*content, **form) == request


def test_data_is_sent_and_never_stored() -> None:
    request = normalized(an_image("reference_image", DATA_URI), a_text(), model=V20)

    assert request.content[0].as_json()["image_url"] == {"url": DATA_URI}
    assert stored_form(request)["content"] == [
        an_image("reference_image", DATA_STORED),
        a_text(),
    ]


def test_only_model_and_content_are_echoed() -> None:
    form = stored(duration=5, spare=1, callback_url="https://hooks.example/x")

    assert echo(form) == {"model": form["model"], "content": form["content"]}


def test_a_fingerprint_is_that_of_the_meaning() -> None:
    plain = fingerprint(normalized(a_text("a fox"), duration=5, resolution="480p", x=1, y=2))

    assert len(plain) == 64
    for same in (
        normalized(a_text("a fox"), resolution="480P", duration="5", y=2, x=1),
        normalized(a_text("a fox --rs 480p --dur 5"), x=1, y=2),
        normalized(a_text("a fox"), duration=5, resolution="480p", x=1, y=2, seed=None),
    ):
        assert fingerprint(same) == plain


@pytest.mark.parametrize(
    "other",
    [
        {"duration": 6},
        {"duration": None},
        {"x": 2},
        {"z": 1},
        {"seed": 5},
        {"callback_url": "https://hooks.example"},
        {"model": "seedance-1-0-pro-250528"},
        {"content": [a_text("A fox")]},
        {"content": [a_text("a fox"), an_image()]},
    ],
)
def test_a_fingerprint_changes_with_the_meaning(other: dict[str, Any]) -> None:
    base: dict[str, Any] = {"content": [a_text("a fox")], "duration": 5, "x": 1}
    changed = {**base, **other}

    def fingerprint_of(body: dict[str, Any]) -> str:
        fields = {name: value for name, value in body.items() if name != "content"}
        return fingerprint(normalized(*body["content"], **fields))

    assert fingerprint_of(changed) != fingerprint_of(base)


def test_data_counts_by_its_hash_in_a_fingerprint() -> None:
    def fingerprint_of(data: bytes) -> str:
        uri = "data:image/png;base64," + base64.b64encode(data).decode()
        return fingerprint(normalized(an_image(url=uri)))

    assert fingerprint_of(DATA) == fingerprint_of(bytes(DATA))
    assert fingerprint_of(DATA) != fingerprint_of(DATA[::-1])


def test_queries_of_media_are_stripped_and_nothing_else() -> None:
    form = stored(
        a_text("see https://a.example/?q"),
        an_image("reference_image", SIGNED_URL),
        an_image("reference_image", "HTTPS://img.example/b?sig=hidden"),
        an_image("reference_image", "asset://a1"),
        {**a_video(), "weight": "x?y"},
        an_image("reference_image", DATA_URI),
        model=V20,
        callback_url="https://hooks.example/?kept",
    )

    stripped = strip_media_queries(form)

    assert stripped["content"] == [
        a_text("see https://a.example/?q"),
        an_image("reference_image", "https://img.example/boat.png"),
        an_image("reference_image", "HTTPS://img.example/b"),
        an_image("reference_image", "asset://a1"),
        {**a_video(), "weight": "x?y"},
        an_image("reference_image", DATA_STORED),
    ]
    assert {**stripped, "content": None} == {**form, "content": None}
    assert strip_media_queries(stripped) == stripped
    assert strip_media_queries(echo(form)) == echo(stripped)


def test_hashing_leaves_no_text_and_no_address() -> None:
    form = stored(
        {**a_text("hidden prompt"), "role": "hidden"},
        {**an_image("reference_image", SIGNED_URL), "note": "hidden"},
        {
            "type": "image_url",
            "image_url": {"url": "asset://hidden", "detail": "hidden"},
            "role": "reference_image",
        },
        an_image("reference_image", DATA_URI),
        model=V20,
        duration=5,
        safety_identifier="hidden",
        spare={"x": "hidden"},
        callback_url="https://hooks.example/?hidden",
    )

    hashed = hash_texts(form)

    assert "hidden" not in json.dumps(hashed)
    assert (hashed["model"], hashed["duration"]) == (V20, 5)
    content: Any = hashed["content"]
    assert content[0]["text"] == sha256("hidden prompt")
    assert content[1]["image_url"] == {"url": sha256(SIGNED_URL)}
    assert content[1]["role"] == "reference_image"
    assert content[2]["image_url"]["url"] == sha256("asset://hidden")
    assert content[3] == an_image("reference_image", DATA_STORED)
    assert hash_texts(hashed) == hashed
    assert strip_media_queries(hashed) == hashed


def test_hashing_keeps_the_id_of_a_draft_task() -> None:
    form = stored(DRAFT_TASK, model=V25)

    assert hash_texts(form) == form
    assert strip_media_queries(form) == form
