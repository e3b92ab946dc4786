"""What each dialect sends, and where."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.commands import lift_commands
from gateway.domain.policy import NormalizePolicy
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.errors import ClientFault
from gateway.upstreams import ark, seedance
from gateway.upstreams.adapter import Dialect
from gateway.upstreams.answers import encode_json
from tests.support.requests import (
    IMAGE_URL,
    PRO,
    V15,
    V20,
    a_body,
    a_text,
    an_audio,
    an_image,
    normalized,
    shipped_catalog,
)

ARK, SEEDANCE = ark.ARK, seedance.SEEDANCE
IMAGE = an_image()


def rendered(dialect: Dialect, request: NormalizedRequest) -> dict[str, object]:
    """Return the body as the upstream parses it."""
    value = json.loads(encode_json(dialect.render_submission(request, "ep-1", None)))
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("dialect", "base_url", "expected"),
    [
        (ARK, "https://a.example/api/v3", "https://a.example/api/v3/contents/generations/tasks"),
        (ARK, "https://a.example/api/v3/", "https://a.example/api/v3/contents/generations/tasks"),
        (ARK, "https://a.example", "https://a.example/api/v3/contents/generations/tasks"),
        (ARK, "http://a.example:8081", "http://a.example:8081/api/v3/contents/generations/tasks"),
        (ARK, "https://a.example/api/v1", "https://a.example/api/v1/contents/generations/tasks"),
        (ARK, "https://a.example/volc/v3", "https://a.example/volc/v3/contents/generations/tasks"),
        (
            ARK,
            "https://a.example/api/v3/contents/generations/tasks",
            "https://a.example/api/v3/contents/generations/tasks",
        ),
        (SEEDANCE, "https://b.example", "https://b.example/seedance/generations"),
        (SEEDANCE, "https://b.example/", "https://b.example/seedance/generations"),
        (SEEDANCE, "https://b.example/v1", "https://b.example/v1/seedance/generations"),
        (SEEDANCE, "https://b.example/v1/seedance", "https://b.example/v1/seedance/generations"),
        (
            SEEDANCE,
            "https://b.example/v1/seedance/generations",
            "https://b.example/v1/seedance/generations",
        ),
    ],
)
def test_documented_base_urls_lead_to_the_collection(
    dialect: Dialect, base_url: str, expected: str
) -> None:
    assert dialect.tasks_url(base_url) == expected


PUBLISHED = (a_text("Paper boats drift --resolution 480p --duration 5"), IMAGE)


def test_ark_takes_the_published_example_as_typed_fields() -> None:
    assert rendered(ARK, normalized(*PUBLISHED)) == {
        "model": "ep-1",
        "content": [
            {"type": "text", "text": "Paper boats drift"},
            {"type": "image_url", "image_url": {"url": IMAGE_URL}},
        ],
        "resolution": "480p",
        "duration": 5,
    }


def test_seedance_takes_the_published_example_as_it_was_written() -> None:
    assert rendered(SEEDANCE, normalized(*PUBLISHED)) == {
        "model": "ep-1",
        "content": [
            {"type": "text", "text": "Paper boats drift --resolution 480p --duration 5"},
            {"type": "image_url", "image_url": {"url": IMAGE_URL}},
        ],
    }


@pytest.mark.parametrize(
    ("model", "name", "value", "command"),
    [
        (PRO, "resolution", "1080p", "--resolution 1080p"),
        (PRO, "ratio", "21:9", "--ratio 21:9"),
        (PRO, "duration", 12, "--duration 12"),
        (PRO, "frames", 57, "--frames 57"),
        (PRO, "seed", 51877, "--seed 51877"),
        (PRO, "camera_fixed", True, "--camerafixed true"),
        (PRO, "camera_fixed", False, "--camerafixed false"),
        (PRO, "watermark", True, "--watermark true"),
        (PRO, "framespersecond", 24, "--framespersecond 24"),
        (PRO, "service_tier", "flex", None),
        (PRO, "execution_expires_after", 3600, None),
        (PRO, "return_last_frame", True, None),
        (PRO, "safety_identifier", "user-1", None),
        (V15, "generate_audio", False, None),
        (V20, "priority", 3, None),
        (V20, "tools", [{"type": "web_search"}], None),
        (V20, "novel", {"a": [1, None, "\u00e4"]}, None),
        (V20, "vast", 10**30, None),
    ],
)
def test_a_field_is_a_command_where_there_is_one_and_else_stays_a_field(
    model: str, name: str, value: object, command: str | None
) -> None:
    body = a_body(a_text("Boats"), model=model, **{name: value})
    request = normalize(body, shipped_catalog(), NormalizePolicy())

    as_ark = rendered(ARK, request)
    as_seedance = rendered(SEEDANCE, request)

    bare = {"model": "ep-1", "content": [{"type": "text", "text": "Boats"}]}
    assert as_ark == {**bare, name: value}
    if command is None:
        assert as_seedance == {**bare, name: value}
    else:
        assert as_seedance == {**bare, "content": [{"type": "text", "text": f"Boats {command}"}]}


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_a_ratio_that_no_field_takes_is_a_command_for_both(dialect: Dialect) -> None:
    body = rendered(dialect, normalized(a_text("Boats"), ratio="9:21"))

    assert body == {"model": "ep-1", "content": [{"type": "text", "text": "Boats --ratio 9:21"}]}


def test_commands_stand_at_the_end_of_the_last_text() -> None:
    request = normalized(a_text("One"), IMAGE, a_text("Two"), duration=5)

    content = rendered(SEEDANCE, request)["content"]

    assert content == [a_text("One"), IMAGE, a_text("Two --duration 5")]


def test_commands_are_a_text_of_their_own_where_there_is_none() -> None:
    content = rendered(SEEDANCE, normalized(IMAGE, duration=5))["content"]

    assert content == [a_text("--duration 5"), IMAGE]


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_nulls_and_callback_urls_are_never_sent(dialect: Dialect) -> None:
    request = normalized(
        a_text("Boats"), callback_url="https://client.example/hook", seed=None, novel=None
    )
    smuggled = replace(request, extra={"callback_url": "https://x.example", "model": "m2", "a": 1})

    assert set(rendered(dialect, request)) == {"model", "content"}
    assert rendered(dialect, smuggled) == {**rendered(dialect, request), "a": 1}


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_a_draft_is_named_by_the_upstreams_id(dialect: Dialect) -> None:
    ours = "cgt-20261122150102-abcdefghij2345674567"
    draft = {"type": "draft_task", "draft_task": {"id": ours}}
    request = normalized(draft, model=V15)

    body = dialect.render_submission(request, "ep-1", "cgt-20261122150102-q7w2x")

    assert body["content"] == [
        {"type": "draft_task", "draft_task": {"id": "cgt-20261122150102-q7w2x"}}
    ]


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_a_draft_is_alone_in_the_content_and_parameters_are_fields(dialect: Dialect) -> None:
    draft = {"type": "draft_task", "draft_task": {"id": "cgt-20261122150102-abcdefghij2345674567"}}
    request = normalized(draft, model=V15, resolution="720p", watermark=True)

    assert dialect.render_submission(request, "ep-1", "cgt-20261122150102-q7w2x") == {
        "model": "ep-1",
        "content": [{"type": "draft_task", "draft_task": {"id": "cgt-20261122150102-q7w2x"}}],
        "resolution": "720p",
        "watermark": True,
    }


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_our_fields_stand_after_those_that_nobody_knows(dialect: Dialect) -> None:
    request = normalized(a_text("Boats"), service_tier="flex")
    extra = {"model": "m2", "MODEL": "m2", "Content": [], "Service_Tier": "x", "service_tier": "y"}

    body = dialect.render_submission(replace(request, extra=extra), "ep-1", None)

    assert list(body) == ["MODEL", "Content", "Service_Tier", "model", "content", "service_tier"]
    assert (body["model"], body["service_tier"]) == ("ep-1", "flex")


@pytest.mark.parametrize("dialect", [ARK, SEEDANCE])
def test_roles_media_and_unknown_item_fields_are_unchanged(dialect: Dialect) -> None:
    items = [
        a_text("Boats"),
        {**an_image("reference_image"), "novel": 1},
        {
            "type": "image_url",
            "image_url": {"url": IMAGE_URL, "detail": "x"},
            "role": "reference_image",
        },
        an_audio(),
    ]

    assert rendered(dialect, normalized(*items, model=V20))["content"] == items


ODD_TEXTS = ["Sea --dur 7 birds", "\u2014rt 4:3 hi", "--foo 1 --", "-- seed 9", "--", "x --wm"]
bodies = st.fixed_dictionaries(
    {"model": st.just(PRO), "content": st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).map(a_text)
        | st.sampled_from(ODD_TEXTS).map(a_text),
        max_size=3,
    ).map(lambda texts: [*texts, IMAGE])},
    optional={
        "resolution": st.sampled_from(["480p", "720p", "1080p"]),
        "ratio": st.sampled_from(["16:9", "9:21", "adaptive", "keep_ratio", "1:1"]),
        "duration": st.integers(2, 12),
        "frames": st.integers(1, 66).map(lambda n: 25 + 4 * n),
        "seed": st.integers(-1, 2**31 - 1),
        "camera_fixed": st.booleans(),
        "watermark": st.booleans(),
        "framespersecond": st.just(24),
        "service_tier": st.sampled_from(["default", "flex"]),
        "return_last_frame": st.booleans(),
        "safety_identifier": st.just("u-1"),
        "novel": st.integers() | st.lists(st.text(st.characters(codec="utf-8")), max_size=2),
    },
)  # fmt: skip


def normalized_or_none(body: dict[str, object]) -> NormalizedRequest | None:
    try:
        return normalize(body, shipped_catalog(), NormalizePolicy())
    except ClientFault:  # refused: no case of these tests
        return None


@given(body=bodies)
def test_ark_sends_what_was_normalized(body: dict[str, object]) -> None:
    request = normalized_or_none(body)
    if request is None:
        return

    sent = rendered(ARK, request)

    back = normalize({**sent, "model": PRO}, shipped_catalog(), NormalizePolicy())
    assert back.parameters == request.parameters
    if not request.text_commands:
        assert back == request


@given(body=bodies)
def test_seedance_sends_what_was_normalized(body: dict[str, object]) -> None:
    request = normalized_or_none(body)
    if request is None:
        return

    sent = rendered(SEEDANCE, request)

    back = normalize({**sent, "model": PRO}, shipped_catalog(), NormalizePolicy())
    assert back.parameters == request.parameters
    assert back.extra == request.extra


@given(body=bodies)
def test_ark_leaves_no_known_command_in_a_prompt_but_those_without_a_field(
    body: dict[str, object],
) -> None:
    request = normalized_or_none(body)
    if request is None:
        return

    content = rendered(ARK, request)["content"]

    assert isinstance(content, list)
    texts = [item["text"] for item in content if item["type"] == "text"]
    found = [command for text in texts for command in lift_commands(text).commands]
    assert [(command.parameter, command.value) for command in found] == [
        (command.parameter, command.value) for command in request.text_commands
    ]
