from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.domain.models import Mode
from gateway.domain.policy import UnknownFields
from gateway.domain.stored import fingerprint
from gateway.errors import ClientFault, InvalidRequest, MissingParameter, ModelNotFound
from tests.support.requests import (
    DEFAULT_POLICY,
    LITE_I2V,
    PRO,
    V15,
    V20,
    V25,
    a_text,
    an_image,
    normalized,
)

# What the vendor's SDK posts when only duration and resolution are set.
SDK_NULLS: Final = dict.fromkeys(
    [
        "safety_identifier", "callback_url", "return_last_frame", "service_tier", "ratio",
        "execution_expires_after", "generate_audio", "draft", "camera_fixed", "watermark", "seed",
        "frames", "tools", "priority", "output_format", "omni_reference_task_type",
    ]
)  # fmt: skip
LITE_T2V: Final = "doubao-seedance-1-0-lite-t2v-250428"
PRO_FAST: Final = "doubao-seedance-1-0-pro-fast-251015"
V1_WITH_IMAGES: Final = [PRO, PRO_FAST, LITE_I2V]


def refusal(*content: object, **fields: Any) -> ClientFault:
    with pytest.raises(ClientFault) as caught:
        normalized(*content, **fields)
    error = caught.value
    assert error.message.isprintable()
    assert len(error.message) < 600
    return error


def parameters(*content: object, **fields: Any) -> dict[str, object]:
    return normalized(*content, **fields).parameters.as_json()


# --- the published page -------------------------------------------------------------------------


def test_normalizes_the_published_example() -> None:
    request = normalized(
        a_text("Paper boats drift past a lighthouse  --resolution 480p --duration 5"), an_image()
    )

    assert request.mode is Mode.I2V
    assert [item.as_json() for item in request.content] == [a_text(), an_image()]
    assert request.body_parameters() == {"resolution": "480p", "duration": 5}
    assert request.text_commands == ()
    assert request.warnings == ()


@pytest.mark.parametrize("model", V1_WITH_IMAGES)
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        *[(f"--duration {seconds}", {"duration": seconds}) for seconds in (5, 10)],
        *[(f"--resolution {height}", {"resolution": height}) for height in ("480p", "1080p")],
        *[
            (f"--ratio {ratio}", {"ratio": ratio})
            for ratio in ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16", "9:21", "adaptive")
        ],
        ("--ratio keep_ratio", {"ratio": "adaptive"}),
        ("-- camerafixed true", {"camera_fixed": True}),
        ("-- camerafixed false", {"camera_fixed": False}),
    ],
)
def test_accepts_every_value_of_the_published_page(
    model: str, command: str, expected: dict[str, object]
) -> None:
    ((name, value),) = expected.items()

    assert parameters(a_text(f"a fox {command}"), an_image(), model=model) == expected
    if "keep_ratio" not in command:
        assert parameters(an_image(), model=model, **{name: value}) == expected
        assert parameters(an_image(), model=model, **{name: str(value)}) == expected


@pytest.mark.parametrize("model", [LITE_T2V, PRO])
@pytest.mark.parametrize("ratio", ["21:9", "16:9", "4:3", "1:1", "3:4", "9:16", "9:21"])
def test_accepts_every_fixed_ratio_for_text_alone(model: str, ratio: str) -> None:
    assert parameters(a_text(f"a fox --rt {ratio}"), model=model) == {"ratio": ratio}


# --- null, strings, unknown fields --------------------------------------------------------------


def test_null_means_absent() -> None:
    nulls: dict[str, Any] = {**SDK_NULLS, "spare": None}

    request = normalized(an_image(), duration=5, **nulls)

    assert request == normalized(an_image(), duration=5)
    assert request.parameters.as_json() == {"duration": 5}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("duration", "5", 5),
        ("duration", "+5", 5),
        ("duration", "5.0", 5),
        ("duration", 5.0, 5),
        ("frames", "57", 57),
        ("seed", "-1", -1),
        ("seed", 4_294_967_295, 4_294_967_295),
        ("camera_fixed", "True", True),
        ("watermark", "false", False),
        ("watermark", True, True),
        ("return_last_frame", "TRUE", True),
        ("framespersecond", "24", 24),
        ("execution_expires_after", "3600", 3600),
        ("resolution", "480P", "480p"),
        ("ratio", "16\uff1a9", "16:9"),
        ("ratio", "Adaptive", "adaptive"),
        ("service_tier", "flex", "flex"),
        ("safety_identifier", "user-é 5", "user-é 5"),
    ],
)
def test_typed_fields_are_read_from_what_clients_send(
    name: str, value: object, read: object
) -> None:
    assert parameters(an_image(), **{name: value}) == {name: read}


@pytest.mark.parametrize(
    ("name", "value", "shown", "allowed"),
    [
        ("duration", "abc", "abc is given", "2 to 12"),
        ("duration", 5.5, "5.5 is given", "2 to 12"),
        ("duration", True, "true is given", "2 to 12"),
        ("duration", "", "an empty text is given", "2 to 12"),
        ("duration", [5], "an array is given", "2 to 12"),
        ("duration", {"s": 5}, "an object is given", "2 to 12"),
        ("duration", "٥", "٥ is given", "2 to 12"),
        ("duration", 10**30, "1000000000000000000000000000000 is given", "2 to 12"),
        ("duration", 1e300, "1e+300 is given", "2 to 12"),
        ("duration", 13, "13 is given", "2 to 12"),
        ("duration", 1, "1 is given", "2 to 12"),
        ("duration", 0, "0 is given", "2 to 12"),
        ("duration", -1, "-1 is given", "2 to 12"),
        ("frames", 30, "30 is given", "29 to 289 in steps of 4"),
        ("frames", "x", "x is given", "29 to 289 in steps of 4"),
        ("seed", -2, "-2 is given", "-1 to 4294967295"),
        ("seed", 2**32, "4294967296 is given", "-1 to 4294967295"),
        ("camera_fixed", "yes", "yes is given", "true, false"),
        ("camera_fixed", 1, "1 is given", "true, false"),
        ("framespersecond", 25, "25 is given", "24"),
        ("framespersecond", "30", "30 is given", "24"),
        ("service_tier", "turbo", "turbo is given", "default, flex"),
        ("service_tier", 1, "1 is given", "default, flex"),
        ("execution_expires_after", 3599, "3599 is given", "3600 to 259200"),
        ("priority", 10, "10 is given", "0 to 9"),
        ("resolution", "4k", "4k is given", "480p, 720p, 1080p"),
        ("resolution", 720, "720 is given", "480p, 720p, 1080p"),
        ("resolution", "1920x1080", "1920x1080 is given", "480p, 720p, 1080p"),
        ("ratio", "16x9", "16x9 is given", "16:9, 4:3, 1:1, 3:4, 9:16, 21:9, adaptive, 9:21"),
        ("ratio", "5:4", "5:4 is given", "16:9, 4:3, 1:1, 3:4, 9:16, 21:9, adaptive, 9:21"),
        ("tools", "web_search", "web_search is given", '[{"type": "web_search"}]'),
        ("tools", [{"type": "code"}], "an array is given", '[{"type": "web_search"}]'),
        ("tools", [{"type": "web_search", "n": 9}], "an array", '[{"type": "web_search"}]'),
        ("safety_identifier", "x" * 65, "x" * 64 + "... is given", "1 to 64 printable"),
        ("safety_identifier", "a\nb", "ab is given", "1 to 64 printable"),
        ("safety_identifier", 5, "5 is given", "1 to 64 printable"),
        ("output_format", "../mp4", "../mp4 is given", "mp4"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    name: str, value: object, shown: str, allowed: str
) -> None:
    error = refusal(an_image(), **{name: value})

    assert error.param == name
    assert f"the parameter {name} specified in the request is not valid for model " in error.message
    assert "doubao-seedance-1-0-pro in i2v: " in error.message
    assert shown in error.message
    assert f"allowed are {allowed}" in error.message


def test_a_refusal_has_the_vendors_words() -> None:
    error = refusal(an_image(), duration=13)

    assert error.message == (
        "the parameter duration specified in the request is not valid for model "
        "doubao-seedance-1-0-pro in i2v: 13 is given, allowed are 2 to 12."
    )
    assert (error.public_code, error.public_status) == ("InvalidParameter", 400)


def test_a_model_is_named_without_its_date_and_an_endpoint_by_its_family() -> None:
    assert "model dreamina-seedance-2-0 in t2v" in refusal(model=V20, duration=3).message
    endpoint = refusal(model="ep-20261122-abcde", duration=1)
    assert "model seedance-1-0-pro in t2v" in endpoint.message


def test_unknown_fields_pass_through_unchanged() -> None:
    unknown: dict[str, Any] = {
        "negative_prompt": "rain",
        "fps": 30,
        "camerafixed": True,
        "x": {"y": [None, 1]},
    }

    request = normalized(**unknown, nothing=None)

    assert request.extra == unknown
    assert request.parameters.as_json() == {}


def test_unknown_fields_are_refused_where_the_deployment_says_so() -> None:
    policy = replace(DEFAULT_POLICY, unknown_fields=UnknownFields.REJECT)

    error = refusal(policy=policy, fps=30)
    assert (error.param, error.message) == ("fps", "the parameter fps is unknown to this gateway.")
    assert parameters(policy=policy, fps=None, duration=5) == {"duration": 5}


def test_unknown_fields_are_bounded_in_number_and_size() -> None:
    policy = replace(DEFAULT_POLICY, unknown_fields_count_max=2, unknown_fields_bytes_max=60)
    image = {"type": "image_url", "image_url": {"url": "https://a.example", "detail": 1}, "w": 1}

    assert normalized(image, policy=policy).mode is Mode.I2V
    assert "more than 2 unknown" in refusal(image, policy=policy, x=1).message
    assert "exceed 60 bytes" in refusal(policy=policy, x="雨" * 20).message
    assert normalized(policy=policy, x="a" * 40).extra == {"x": "a" * 40}


@pytest.mark.parametrize("unknown_fields", UnknownFields)
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Model", "model"),
        ("CONTENT", "content"),
        ("Resolution", "resolution"),
        ("DURATION", "duration"),
        ("Service_Tier", "service_tier"),
        ("Callback_url", "callback_url"),
        ("\u017feed", "seed"),
        ("watermar\u212a", "watermark"),
        ("FRAME\u017f", "frames"),
    ],
)
def test_a_field_that_differs_from_a_known_one_in_case_is_refused(
    name: str, meant: str, unknown_fields: UnknownFields
) -> None:
    policy = replace(DEFAULT_POLICY, unknown_fields=unknown_fields)

    error = refusal(policy=policy, **{name: "4k"})

    assert error.param == name
    assert error.message == (
        f"the parameter {name} is unknown to this gateway, did you mean {meant}?"
    )
    assert normalized(policy=policy, **{name: None}).extra == {}


def test_a_model_in_another_case_is_no_missing_model() -> None:
    assert refusal(model=None, MODEL=PRO).message.endswith("did you mean model?")


@pytest.mark.parametrize("name", ["models", "callbackurl", "service-tier", "\u0130d", "mod\u00e9l"])
def test_other_unknown_fields_are_not_mistaken_for_known_ones(name: str) -> None:
    fields: dict[str, Any] = {name: "x"}

    assert normalized(**fields).extra == fields


# --- model and callback -------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, ""])
def test_a_model_is_required(model: object) -> None:
    error = refusal(model=model)

    assert isinstance(error, MissingParameter)
    assert error.param == "model"


@pytest.mark.parametrize("model", [5, ["a"], "m" * 201])
def test_a_model_is_a_short_text(model: object) -> None:
    error = refusal(model=model)

    assert isinstance(error, InvalidRequest)
    assert "at most 200 characters" in error.message


def test_an_unknown_model_is_not_found_and_the_setting_is_named() -> None:
    error = refusal(model="seedance-1-0-pro-250428")

    assert isinstance(error, ModelNotFound)
    assert error.public_code == "InvalidEndpointOrModel.NotFound"
    assert error.public_status == 404
    assert error.message.startswith(
        "The model or endpoint seedance-1-0-pro-250428 does not exist or you do not have access"
    )
    assert "not configured in this gateway" in error.message
    assert "models.endpoints" in error.message
    assert "\x1b" not in refusal(model="\x1b[31m" + "x" * 190).message


def test_a_callback_is_kept_apart() -> None:
    request = normalized(callback_url="https://hooks.example/x?secret=1")

    assert request.callback_url == "https://hooks.example/x?secret=1"
    assert request.extra == {}
    assert "callback_url" not in request.body_parameters()
    assert normalized().callback_url is None


@pytest.mark.parametrize("url", [5, "hooks.example", "ftp://hooks.example", "https://a:b@c"])
def test_a_callback_is_a_web_address(url: object) -> None:
    assert refusal(callback_url=url).param == "callback_url"


# --- commands and body --------------------------------------------------------------------------


def test_a_command_and_a_field_of_equal_value_are_one() -> None:
    twice = normalized(a_text("a fox --dur 5 --dur 5.0 --rs 480P"), resolution="480p", duration="5")

    assert twice.parameters.as_json() == {"resolution": "480p", "duration": 5}
    assert fingerprint(twice) == fingerprint(
        normalized(a_text("a fox"), resolution="480p", duration=5)
    )


def test_a_command_against_a_field_is_refused_naming_both() -> None:
    error = refusal(a_text("a fox --dur 6"), duration=5)

    assert error.param == "duration"
    assert "5 is given in the body and 6 by the text command --dur; give it once" in error.message


def test_two_commands_against_each_other_are_refused_naming_both() -> None:
    error = refusal(a_text("a fox --rs 480p"), a_text("in the rain --resolution 720p"))

    assert error.param == "resolution"
    assert (
        "480p is given by the text command --rs and 720p by the text command --resolution"
        in error.message
    )


@pytest.mark.parametrize(
    ("text", "param", "problem"),
    [
        ("--dur", "duration", "duration (--dur) specified in the request is not valid"),
        ("--dur", "duration", "no value is given, allowed are 2 to 12"),
        ("--dur x", "duration", "x is given, allowed are 2 to 12"),
        ("--dur 99", "duration", "99 is given, allowed are 2 to 12"),
        ("--fps 30", "framespersecond", "framespersecond (--fps) specified"),
        ("--rs 480p,", "resolution", "480p, is given, allowed are 480p, 720p, 1080p"),
        ('--rt "16:9"', "ratio", '"16:9" is given, allowed are 16:9'),
        ("--cf maybe", "camera_fixed", "camera_fixed (--cf) specified"),
    ],
)
def test_a_command_of_wrong_value_is_named(text: str, param: str, problem: str) -> None:
    error = refusal(a_text(f"a fox {text}"))

    assert error.param == param
    assert problem in error.message


def test_a_ratio_that_no_field_takes_goes_as_a_text_command() -> None:
    for request in (normalized(ratio="9:21"), normalized(a_text("a fox --rt 9:21"), duration=5)):
        assert request.ratio == "9:21"
        assert "ratio" not in request.body_parameters()
        (command,) = request.text_commands
        assert (command.spelled, command.value) == ("--ratio", "9:21")
        assert request.family.frame_size("480p", "9:21") == (416, 960)
    assert "9:21 is given, allowed are 16:9" in refusal(model=V20, ratio="9:21").message


@pytest.mark.parametrize("model", [PRO, LITE_I2V, V15, V20, V25])
def test_keep_ratio_is_adaptive_and_needs_an_image(model: str) -> None:
    assert parameters(an_image(), model=model, ratio="keep_ratio") == {"ratio": "adaptive"}
    assert parameters(a_text("a fox --rt adaptive"), an_image(), model=model, ratio="keep_ratio")
    assert (
        "keep_ratio is given, it needs an image"
        in refusal(a_text(), model=model, ratio="keep_ratio").message
    )


def test_frames_win_over_duration() -> None:
    request = normalized(a_text("a fox --frames 57"), duration=5)

    assert request.parameters.as_json() == {"frames": 57}
    assert request.duration_s is None
    assert request.parameters == normalized(frames=57).parameters


@pytest.mark.parametrize("duration", [0, 999, "x"])
def test_a_wrong_duration_is_refused_also_beside_frames(duration: object) -> None:
    error = refusal(frames=29, duration=duration)

    assert error.param == "duration"
    assert "allowed are 2 to 12." in error.message


# --- what was not given -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "content", "expected"),
    [
        (PRO, [a_text()], ("1080p", "16:9", 5)),
        (PRO, [an_image()], ("1080p", "adaptive", 5)),
        (LITE_I2V, [an_image("reference_image")], ("720p", "16:9", 5)),
        (V25, [a_text()], ("720p", "adaptive", -1)),
        (V25, [{"type": "draft_task", "draft_task": {"id": "cgt-1"}}], ("1080p", "adaptive", -1)),
        ("house-1", [a_text()], (None, "adaptive", -1)),
    ],
)
def test_defaults_are_those_of_family_and_mode(
    model: str, content: list[object], expected: tuple[object, ...]
) -> None:
    request = normalized(*content, model=model)

    assert (request.resolution, request.ratio, request.duration_s) == expected
    assert request.parameters.as_json() == {}


def test_what_was_given_wins_over_defaults() -> None:
    request = normalized(resolution="480p", ratio="1:1", duration=7)

    assert (request.resolution, request.ratio, request.duration_s) == ("480p", "1:1", 7)


def test_the_id_of_a_draft_task_is_found() -> None:
    draft = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}

    request = normalized(draft, model=V25)

    assert request.draft_task_id == "cgt-1"
    assert request.draft_task_param == "content[0].draft_task.id"
    behind = normalized(a_text("--rs 1080p"), draft, model=V25)
    assert behind.draft_task_param == "content[1].draft_task.id"
    assert normalized().draft_task_id is None


def test_a_draft_has_its_own_resolution() -> None:
    assert parameters(model=V25, draft=True) == {"draft": True, "resolution": "480p"}
    assert parameters(model=V25, draft="true", resolution="480p")["resolution"] == "480p"
    assert parameters(model=V25, draft=False) == {"draft": False}


def test_a_request_shows_no_secret_in_its_repr() -> None:
    request = normalized(
        a_text("hidden prompt --dur 5"),
        an_image(url="https://img.example/?hidden"),
        callback_url="https://hooks.example/?hidden",
        spare="hidden",
    )

    assert "hidden" not in repr(request)
