from dataclasses import replace
from typing import Final

import pytest

from gateway.domain.content import Content, Item, ItemType, Role, count_chars, read_content
from gateway.domain.models import Mode
from gateway.domain.policy import NormalizePolicy, UnknownFields
from gateway.errors import ClientFault, InvalidRequest, MissingParameter
from tests.support.requests import DEFAULT_POLICY, a_text, a_video, an_audio, an_image

DRAFT_TASK: Final = {"type": "draft_task", "draft_task": {"id": "cgt-20261122150102-q7w2x"}}


def read(*items: object, policy: NormalizePolicy = DEFAULT_POLICY) -> Content:
    return read_content(list(items), policy)


def refusal(*items: object, policy: NormalizePolicy = DEFAULT_POLICY) -> ClientFault:
    with pytest.raises(ClientFault) as caught:
        read(*items, policy=policy)
    return caught.value


@pytest.mark.parametrize(
    ("items", "mode"),
    [
        ([a_text()], Mode.T2V),
        ([a_text(), a_text("and a gull")], Mode.T2V),
        ([a_text(), an_image()], Mode.I2V),
        ([an_image()], Mode.I2V),
        ([an_image("first_frame")], Mode.I2V),
        ([an_image("last_frame"), an_image("first_frame"), a_text()], Mode.FIRST_LAST),
        ([an_image("reference_image")], Mode.R2V),
        ([a_text(), *[an_image("reference_image")] * 3, a_video(), an_audio()], Mode.R2V),
        ([a_video()], Mode.R2V),
        ([an_audio()], Mode.R2V),
        ([{"type": "video_url", "video_url": {"url": "https://img.example/a.mp4"}}], Mode.R2V),
        ([DRAFT_TASK], Mode.DRAFT),
        ([DRAFT_TASK, a_text("--rs 1080p")], Mode.DRAFT),
        ([a_text(" "), an_image()], Mode.I2V),
    ],
)
def test_items_make_a_mode(items: list[object], mode: Mode) -> None:
    assert read(*items).mode is mode


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([an_image(), an_image()], "role must be specified for image contents"),
        ([an_image("first_frame"), an_image()], "role must be specified for image contents"),
        ([an_image("reference_image"), an_image()], "role must be specified for image contents"),
        (
            [an_image("first_frame"), an_image("first_frame")],
            "expected at most one first frame image content but got 2",
        ),
        (
            [an_image("last_frame")] * 3 + [an_image("first_frame")],
            "expected at most one last frame image content but got 3",
        ),
        ([an_image("last_frame")], "last frame image content needs a first frame beside it"),
        (
            [an_image("first_frame"), an_image("reference_image")],
            "first/last frame content cannot be mixed with reference media content",
        ),
        ([an_image(), a_video()], "cannot be mixed with reference media content"),
        ([an_image("last_frame"), an_audio()], "cannot be mixed with reference media content"),
        ([DRAFT_TASK, a_text()], "draft_task cannot be mixed with other content"),
        ([DRAFT_TASK, DRAFT_TASK], "draft_task cannot be mixed with other content"),
    ],
)
def test_items_that_exclude_each_other_are_refused(items: list[object], problem: str) -> None:
    error = refusal(*items)

    assert problem in error.message
    assert error.param == "content"


@pytest.mark.parametrize(
    ("item", "param", "problem"),
    [
        ("a fox", "content[0]", "a text is given, an object with a type is allowed"),
        (None, "content[0]", "null is given"),
        (["x"], "content[0]", "an array is given"),
        ({}, "content[0].type", "missing the required parameter content[0].type"),
        ({"type": 5}, "content[0].type", "5 is given, allowed are text, image_url, video_url"),
        ({"type": "file_url"}, "content[0].type", "file_url is given, allowed are text,"),
        ({"type": "text"}, "content[0].text", "missing the required parameter"),
        ({"type": "text", "text": 5}, "content[0].text", "a number is given, a text is allowed"),
        ({"type": "text", "text": {"a": 1}}, "content[0].text", "an object is given"),
        ({"type": "image_url"}, "content[0].image_url", "missing the required parameter"),
        (
            {"type": "image_url", "image_url": "https://img.example/?secret"},
            "content[0].image_url",
            "a text is given, an object with url is allowed",
        ),
        (
            {"type": "image_url", "image_url": {}},
            "content[0].image_url.url",
            "missing the required parameter content[0].image_url.url",
        ),
        ({"type": "image_url", "image_url": {"url": ""}}, "content[0].image_url.url", "missing"),
        (
            {"type": "image_url", "image_url": {"url": True}},
            "content[0].image_url.url",
            "true is given, a text is allowed",
        ),
        (
            {"type": "image_url", "image_url": {"url": "ftp://x"}},
            "content[0].image_url",
            "the scheme ftp is given",
        ),
        (
            {**an_image(), "text": "x"},
            "content[0].text",
            "can't stand in an item of the type image_url",
        ),
        (
            {**a_text(), "image_url": {"url": "x"}},
            "content[0].image_url",
            "can't stand in an item of the type text",
        ),
        (
            an_image("mask"),
            "content[0].role",
            "mask is given, allowed are first_frame, last_frame, reference_image",
        ),
        ({**a_video(), "role": "first_frame"}, "content[0].role", "allowed are reference_video"),
        ({**an_audio(), "role": 1}, "content[0].role", "allowed are reference_audio"),
        ({"type": "draft_task", "draft_task": "cgt-1"}, "content[0].draft_task", "with id is"),
        ({"type": "draft_task", "draft_task": {}}, "content[0].draft_task.id", "missing"),
        (
            {"type": "draft_task", "draft_task": {"id": "x" * 201}},
            "content[0].draft_task.id",
            "at most 200 characters",
        ),
    ],
)
def test_a_wrong_item_is_named_by_its_path(item: object, param: str, problem: str) -> None:
    error = refusal(item)

    assert error.param == param
    assert problem in error.message
    assert "secret" not in error.message


def test_null_fields_of_an_item_are_absent() -> None:
    nulls = {"image_url": None, "video_url": None, "role": None, "spare": None}
    image: dict[str, object] = {
        "type": "image_url",
        "image_url": {"url": "https://a.example", "detail": None},
    }

    content = read({**a_text("a fox"), **nulls}, {"text": None, "role": None, **image})

    assert content.items == (
        Item(ItemType.TEXT, "a fox", "a fox"),
        Item(ItemType.IMAGE, "https://a.example", "https://a.example"),
    )


@pytest.mark.parametrize("content", [None, []])
def test_content_is_required(content: object) -> None:
    with pytest.raises(MissingParameter, match="required parameter content"):
        read_content(content, DEFAULT_POLICY)


@pytest.mark.parametrize("content", ["a fox", {"type": "text"}, 5, ()])
def test_content_is_an_array(content: object) -> None:
    with pytest.raises(InvalidRequest, match="an array of items is allowed"):
        read_content(content, DEFAULT_POLICY)


def test_content_of_commands_alone_lacks_a_prompt() -> None:
    error = refusal(a_text("--rs 480p"), a_text("  "))

    assert isinstance(error, MissingParameter)
    assert error.param == "content"
    assert error.message.endswith("content: a text or media beside the commands.")


@pytest.mark.parametrize("text", ["", " \n\u3000"])
def test_content_of_blank_texts_alone_lacks_a_prompt(text: str) -> None:
    error = refusal(a_text(text), a_text(text))

    assert isinstance(error, MissingParameter)
    assert error.param == "content"
    assert error.message.endswith("content: a text that is not blank, or media.")


@pytest.mark.parametrize(
    "texts",
    [
        ("fox --", "resolution 4k"),
        ("fox --", "--dur 5", "resolution 4k"),
        ("fox --", " ", "resolution"),
        ("fox -", "-resolution 4k"),
        ("fox --reso", "lution 4k"),
        ("fox —", "resolution 4k"),
        ("fox — resolution", "4k runs"),
        ("fox --", "seed-", "-"),
    ],
)
def test_a_command_spread_over_several_texts_is_refused(texts: tuple[str, ...]) -> None:
    for items in (
        [a_text(text) for text in texts],
        [a_text(texts[0]), an_image(), *map(a_text, texts[1:])],
    ):
        error = refusal(*items)
        assert error.param == "content"
        assert "the text command --" in error.message
        assert "spread over several texts" in error.message


def test_texts_that_make_no_command_together_are_taken() -> None:
    for texts in (("fox --", "a gull"), ("fox", "resolution 4k"), ("fox — seed", "of doubt")):
        assert [item.value for item in read(*map(a_text, texts)).items] == list(texts)


def test_a_text_of_commands_alone_leaves_the_content() -> None:
    content = read(a_text("--rs 480p"), an_image())

    assert [item.type for item in content.items] == [ItemType.IMAGE]
    assert [command.parameter for command in content.commands] == ["resolution"]


def test_commands_of_all_texts_are_lifted_in_order() -> None:
    content = read(a_text("a fox --rs 480p"), an_image(), a_text("in rain --dur 5 --wm true"))

    assert [command.spelled for command in content.commands] == ["--rs", "--dur", "--wm"]
    assert [item.value for item in content.items if item.type is ItemType.TEXT] == [
        "a fox",
        "in rain",
    ]


def test_counts_media_of_every_kind() -> None:
    content = read(*[an_image("reference_image")] * 3, a_video(), an_audio(), an_audio())

    assert (content.counts.images, content.counts.videos, content.counts.audios) == (3, 1, 2)


def test_bounds_the_number_of_items_and_the_length_of_all_texts() -> None:
    policy = replace(DEFAULT_POLICY, content_items_max=2, text_chars_max=10)

    assert len(read(a_text("x" * 5), a_text("y" * 5), policy=policy).items) == 2
    assert (
        "3 items are given, at most 2 are allowed"
        in refusal(*[a_text("x")] * 3, policy=policy).message
    )
    error = refusal(a_text("x" * 5), a_text("y" * 6), policy=policy)
    assert "more than the 10 characters allowed" in error.message


def test_unknown_fields_of_an_item_are_kept_or_refused() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://a.example", "detail": "high"}}
    item = {**image, "weight": 2}

    assert read(item).items[0].as_json() == item
    reject = replace(DEFAULT_POLICY, unknown_fields=UnknownFields.REJECT)
    assert refusal(item, policy=reject).param == "content[0].weight"
    assert refusal(image, policy=reject).param == "content[0].image_url.detail"
    assert read(an_image(), policy=reject).mode is Mode.I2V


@pytest.mark.parametrize("unknown_fields", UnknownFields)
@pytest.mark.parametrize(
    ("item", "param", "meant"),
    [
        ({**a_text(), "Text": "--rs 4k"}, "content[0].Text", "text"),
        ({"TYPE": "text", "text": "a fox"}, "content[0].TYPE", "type"),
        ({**an_image(), "Role": "last_frame"}, "content[0].Role", "role"),
        ({**a_text(), "Image_URL": {}}, "content[0].Image_URL", "image_url"),
        ({**a_text(), "draft_tas\u212a": {}}, "content[0].draft_tas\u212a", "draft_task"),
        (
            {"type": "image_url", "image_url": {"url": "https://a.example", "URL": "x"}},
            "content[0].image_url.URL",
            "url",
        ),
        ({"type": "image_url", "image_url": {"Url": "x"}}, "content[0].image_url.Url", "url"),
        (
            {"type": "draft_task", "draft_task": {"id": "cgt-1", "Id": "cgt-2"}},
            "content[0].draft_task.Id",
            "id",
        ),
    ],
)
def test_a_field_that_differs_from_a_known_one_in_case_is_refused(
    item: object, param: str, meant: str, unknown_fields: UnknownFields
) -> None:
    error = refusal(item, policy=replace(DEFAULT_POLICY, unknown_fields=unknown_fields))

    assert error.param == param
    assert error.message == (
        f"the parameter {param} is unknown to this gateway, did you mean {meant}?"
    )


def test_the_known_fields_of_an_item_come_after_the_unknown_ones() -> None:
    image = {"url": "https://a.example", "detail": "high"}
    item = {"type": "image_url", "image_url": image, "role": "first_frame", "weight": 2}

    rendered = read(item).items[0].as_json()

    assert rendered == item
    assert list(rendered) == ["weight", "type", "image_url", "role"]
    assert list(rendered["image_url"]) == ["detail", "url"]  # type: ignore[call-overload]  # a dict


@pytest.mark.parametrize(
    "item", [a_text(), an_image(), an_image("last_frame"), a_video(), an_audio(), DRAFT_TASK]
)
def test_an_item_is_rendered_as_it_came(item: dict[str, object]) -> None:
    beside = [an_image("first_frame")] if item.get("role") == "last_frame" else []

    assert read(item, *beside).items[0].as_json() == item


def test_an_item_is_rendered_with_another_value_in_its_place() -> None:
    assert read(DRAFT_TASK).items[0].as_json("cgt-up")["draft_task"] == {"id": "cgt-up"}
    assert read(a_text("a fox")).items[0].as_json("") == {"type": "text", "text": ""}


def test_an_item_shows_neither_text_nor_address_in_its_repr() -> None:
    item = read(an_image("first_frame")).items[0]

    assert "img.example" not in repr(item)
    assert item.role is Role.FIRST_FRAME


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (None, 0),
        ("text", 0),
        ([1, None, "text"], 0),
        ([{"type": "text", "text": "abc"}], 7),
        ([{"type": "image_url", "image_url": {"url": "x" * 10}}], 19),
    ],
)
def test_the_text_of_any_content_can_be_counted(content: object, count: int) -> None:
    assert count_chars(content) == count
