"""What each model refuses, beyond the values of single parameters."""

from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.domain.models import Mode
from gateway.domain.policy import Validation
from gateway.domain.rules import NEUTRAL, Rule
from gateway.errors import InvalidRequest
from tests.support.requests import (
    DEFAULT_POLICY,
    LITE_I2V,
    PRO,
    V15,
    V20,
    V25,
    a_text,
    a_video,
    an_audio,
    an_image,
    normalized,
    shipped_catalog,
)

LITE_T2V: Final = "doubao-seedance-1-0-lite-t2v-250428"
PRO_FAST: Final = "doubao-seedance-1-0-pro-fast-251015"
REFERENCE: Final = an_image("reference_image")
FRAMES: Final[list[object]] = [an_image("first_frame"), an_image("last_frame")]
DRAFT_TASK: Final = {"type": "draft_task", "draft_task": {"id": "cgt-1"}}
CONTENT_OF: Final[dict[Mode, list[object]]] = {
    Mode.T2V: [a_text()],
    Mode.I2V: [a_text(), an_image()],
    Mode.FIRST_LAST: FRAMES,
    Mode.R2V: [REFERENCE],
    Mode.DRAFT: [DRAFT_TASK],
}
UNSUPPORTED: Final = "InvalidParameter.UnsupportedParameter"
TASK_TYPE: Final = "InvalidParameter.TaskTypeConstraint"
WARN: Final = replace(DEFAULT_POLICY, validation=Validation.WARN)
ASKING: Final[dict[str, Any]] = {
    "frames": 57,
    "seed": 7,
    "camera_fixed": True,
    "generate_audio": True,
    "draft": True,
    "priority": 3,
    "tools": [{"type": "web_search"}],
    "output_format": "mov",
    "omni_reference_task_type": "reference",
}


def refusal(*content: object, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        normalized(*content, **fields)
    return caught.value


def rules_broken(*content: object, **fields: Any) -> set[Rule]:
    return {w.rule for w in normalized(*content, policy=WARN, **fields).warnings}


@pytest.mark.parametrize("family", shipped_catalog().families.values(), ids=lambda f: f.name)
@pytest.mark.parametrize("mode", Mode)
def test_a_family_takes_its_modes_and_names_them_otherwise(family: Any, mode: Mode) -> None:
    content, model = CONTENT_OF[mode], family.ids[0]

    if mode in family.modes or not family.has_rules:
        assert normalized(*content, model=model).mode is mode
        return
    error = refusal(*content, model=model)
    assert error.param == "content"
    assert f" in {mode.label}: {mode.phrase} is given, allowed are " in error.message
    for allowed in family.modes:
        assert allowed.phrase in error.message
    assert rules_broken(*content, model=model) == {Rule.MODE}


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("family", shipped_catalog().families.values(), ids=lambda f: f.name)
def test_a_parameter_that_a_family_lacks_is_refused(family: Any, name: str) -> None:
    mode = Mode.R2V if name == "omni_reference_task_type" else next(iter(family.modes), Mode.T2V)
    content, model = CONTENT_OF[mode], family.ids[0]
    fields = {name: ASKING[name]}

    if name in family.parameters or not family.has_rules:
        assert name in normalized(*content, model=model, **fields).parameters.as_json()
        return
    if mode not in family.modes:
        mode = next(iter(family.modes))
    error = refusal(*CONTENT_OF[mode], model=model, **fields)
    assert error.param == name
    assert error.public_code == UNSUPPORTED
    assert f"the parameter {name} specified in the request is not valid" in error.message
    assert error.message.endswith("the model has no such parameter.")
    if name != "frames":  # Those are refused though rules only warn.
        assert rules_broken(*CONTENT_OF[mode], model=model, **fields) >= {Rule.PARAMETER}


@pytest.mark.parametrize(("name", "value"), NEUTRAL.items())
def test_a_value_that_asks_for_nothing_is_taken_where_the_parameter_is_lacking(
    name: str, value: Any
) -> None:
    lacking = PRO if name != "camera_fixed" else V20

    assert normalized(model=lacking, **{name: value}).parameters.as_json() == {}
    assert normalized(model=lacking, tools=[]).parameters.as_json() == {}


@pytest.mark.parametrize(
    ("model", "most"), [(LITE_I2V, (4, 0, 0)), (V20, (9, 3, 3)), (V25, (30, 10, 10))]
)
def test_reference_media_are_counted(model: str, most: tuple[int, int, int]) -> None:
    items = [REFERENCE, a_video(), an_audio()]
    nouns = ["images", "videos", "audios"]
    fitting = [item for item, count in zip(items, most, strict=True) for _ in range(count)]

    assert normalized(*fitting, model=model).mode is Mode.R2V
    for item, count, noun in zip(items, most, nouns, strict=True):
        error = refusal(*fitting, item, model=model)
        assert f"{count + 1} reference {noun} are given, at most {count} are" in error.message
        assert error.param == "content"
        assert rules_broken(*fitting, item, model=model) == {Rule.REFERENCES}


def test_reference_audio_alone_is_for_the_models_that_take_it() -> None:
    assert normalized(an_audio(), a_text(), model=V25).mode is Mode.R2V
    assert (
        "reference audio alone is given, it needs a reference image or video"
        in refusal(an_audio(), a_text(), model=V20).message
    )
    assert normalized(an_audio(), a_video(), model=V20).mode is Mode.R2V
    assert normalized(an_audio(), REFERENCE, model=V20).mode is Mode.R2V


def test_lite_with_reference_images_has_fewer_choices() -> None:
    assert normalized(REFERENCE, model=LITE_I2V, resolution="720p").warnings == ()
    assert (
        "allowed are 480p, 720p." in refusal(REFERENCE, model=LITE_I2V, resolution="1080p").message
    )
    assert "adaptive is given" in refusal(REFERENCE, model=LITE_I2V, ratio="adaptive").message
    assert "no such parameter" in refusal(REFERENCE, model=LITE_I2V, camera_fixed=True).message
    plain = normalized(REFERENCE, model=LITE_I2V, camera_fixed=False)
    assert plain.parameters.as_json() == {}


@pytest.mark.parametrize("model", [PRO, PRO_FAST, LITE_T2V])
def test_adaptive_needs_an_image_on_the_oldest_models(model: str) -> None:
    error = refusal(model=model, ratio="adaptive")

    assert "adaptive is given, allowed are 16:9, 4:3, 1:1, 3:4, 9:16, 21:9, 9:21" in error.message
    assert rules_broken(model=model, ratio="adaptive") == {Rule.RATIO}


@pytest.mark.parametrize("model", [V15, V20, V25])
def test_adaptive_is_for_text_too_on_newer_models(model: str) -> None:
    assert normalized(model=model, ratio="adaptive").parameters.ratio == "adaptive"


def test_the_cheaper_tier_is_for_the_models_that_have_it() -> None:
    for model in (PRO, PRO_FAST, V15):
        assert normalized(model=model, service_tier="flex").parameters.service_tier == "flex"
    for model in (V20, V25, LITE_T2V):
        assert normalized(model=model, service_tier="default").warnings == ()
        error = refusal(model=model, service_tier="flex")
        assert error.public_code == UNSUPPORTED
        assert "flex is given, allowed are default." in error.message


@pytest.mark.parametrize("content", [[an_image()], FRAMES])
def test_the_newest_model_takes_the_ratio_of_its_frames(content: list[object]) -> None:
    assert normalized(*content, model=V25, ratio="adaptive").warnings == ()
    assert (
        "16:9 is given, allowed are adaptive." in refusal(*content, model=V25, ratio="16:9").message
    )


@pytest.mark.parametrize("task_type", ["edit", "extend"])
def test_editing_and_extending_need_a_video_and_its_ratio(task_type: str) -> None:
    fields: dict[str, Any] = {"model": V25, "omni_reference_task_type": task_type}

    assert normalized(a_text(), a_video(), **fields).warnings == ()
    assert normalized(a_video(), ratio="adaptive", duration=-1, **fields).warnings == ()
    for content, problem in (
        ([a_text()], "it needs reference media"),
        ([an_image()], "it needs reference media"),
        ([REFERENCE], "it needs a reference video"),
    ):
        error = refusal(*content, **fields)
        assert (error.param, error.public_code) == ("omni_reference_task_type", TASK_TYPE)
        assert f"{task_type} is given, {problem}" in error.message
    error = refusal(a_video(), ratio="16:9", **fields)
    assert (error.param, error.public_code) == ("ratio", TASK_TYPE)
    assert (
        f"16:9 is given, allowed are adaptive with omni_reference_task_type {task_type}."
        in error.message
    )


def test_editing_takes_the_length_of_its_video() -> None:
    fields: dict[str, Any] = {"model": V25, "omni_reference_task_type": "edit"}

    error = refusal(a_video(), duration=5, **fields)
    assert (error.param, error.public_code) == ("duration", TASK_TYPE)
    assert "5 is given, allowed are -1 with omni_reference_task_type edit" in error.message
    fields["omni_reference_task_type"] = "extend"
    assert normalized(a_video(), duration=5, **fields).warnings == ()


def test_other_task_types_are_free() -> None:
    for content in ([a_text()], [REFERENCE], [a_video()]):
        assert normalized(*content, model=V25, omni_reference_task_type="auto").warnings == ()
    fields: dict[str, Any] = {"model": V25, "omni_reference_task_type": "reference"}
    assert normalized(REFERENCE, ratio="16:9", duration=5, **fields).warnings == ()
    assert "it needs reference media" in refusal(a_text(), **fields).message
    fields["omni_reference_task_type"] = "invent"
    error = refusal(a_video(), **fields)
    assert "invent is given, allowed are auto, reference, edit, extend." in error.message
    assert rules_broken(a_video(), **fields) == {Rule.TASK_TYPE}


def test_a_draft_is_small() -> None:
    for model in (V15, V25):
        error = refusal(model=model, draft=True, resolution="720p")
        assert error.param == "resolution"
        assert "720p is given, allowed are 480p with draft." in error.message
        assert normalized(model=model, draft=True, resolution="480p").warnings == ()


def test_a_draft_of_the_older_model_has_no_last_frame() -> None:
    error = refusal(model=V15, draft=True, return_last_frame=True)

    assert (error.param, error.public_code) == ("return_last_frame", UNSUPPORTED)
    assert normalized(model=V15, draft=True, return_last_frame=False).warnings == ()
    assert normalized(model=V25, draft=True, return_last_frame=True).warnings == ()


def test_a_finished_draft_is_not_described_again() -> None:
    assert normalized(DRAFT_TASK, model=V25, resolution="1080p", watermark=True).warnings == ()
    for name, value in (("ratio", "16:9"), ("duration", 5), ("generate_audio", False)):
        error = refusal(DRAFT_TASK, model=V25, **{name: value})
        assert (error.param, error.public_code) == (name, UNSUPPORTED)
    assert (
        "720p is given, allowed are 1080p."
        in refusal(DRAFT_TASK, model=V25, resolution="720p").message
    )
    assert (
        "the content names a finished draft"
        in refusal(DRAFT_TASK, model=V25, draft=True, resolution="1080p").message
    )
    older = normalized(DRAFT_TASK, model=V15, resolution="720p", duration=5)
    assert older.parameters.as_json() == {"resolution": "720p", "duration": 5}


def test_output_formats_are_those_of_the_model() -> None:
    assert normalized(model=V25, output_format="MOV").parameters.output_format == "mov"
    assert (
        "webm is given, allowed are mp4, mov." in refusal(model=V25, output_format="webm").message
    )
    assert rules_broken(model=V25, output_format="webm") == {Rule.OUTPUT_FORMAT}


def test_several_broken_rules_are_all_warned_of() -> None:
    broken = rules_broken(model=V25, duration=3, resolution="4k", ratio="5:4", service_tier="flex")

    assert broken == {Rule.DURATION, Rule.RESOLUTION, Rule.RATIO, Rule.SERVICE_TIER}


def test_frames_off_the_grid_are_warned_of() -> None:
    request = normalized(frames=30, duration=5, policy=WARN)

    assert {w.rule for w in request.warnings} == {Rule.FRAMES}
    assert request.parameters.as_json() == {"frames": 30}


def test_a_wrong_duration_is_warned_of_also_beside_frames() -> None:
    request = normalized(frames=57, duration=99, policy=WARN)

    assert {w.rule for w in request.warnings} == {Rule.DURATION}
    assert request.parameters.as_json() == {"frames": 57}


@pytest.mark.parametrize(
    ("content", "fields", "param", "problem"),
    [
        ([a_text()], {"model": PRO, "resolution": "8k"}, "resolution", "8k is given"),
        ([REFERENCE], {"model": PRO, "resolution": "8k"}, "resolution", "8k is given"),
        ([a_text()], {"model": V20, "frames": 57}, "frames", "has no such parameter"),
        ([a_text()], {"model": V20, "frames": 57, "duration": 5}, "frames", "no such parameter"),
        ([a_text()], {"model": V25, "draft": True, "resolution": "1080p"}, "resolution", "480p"),
        ([REFERENCE], {"model": V15, "draft": True, "resolution": "1080p"}, "resolution", "480p"),
        ([DRAFT_TASK], {"model": V25, "draft": True}, "draft", "names a finished draft"),
    ],
)
def test_what_makes_the_price_unknown_is_refused_though_rules_only_warn(
    content: list[object], fields: dict[str, Any], param: str, problem: str
) -> None:
    error = refusal(*content, policy=WARN, **fields)

    assert error.param == param
    assert problem in error.message


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"model": PRO, "resolution": "4k"}, Rule.RESOLUTION),
        ({"model": V20, "service_tier": "flex"}, Rule.SERVICE_TIER),
        ({"model": PRO, "tools": [{"type": "web_search"}]}, Rule.PARAMETER),
        ({"model": V20, "draft": True}, Rule.PARAMETER),
        ({"model": PRO, "duration": 60}, Rule.DURATION),
    ],
)
def test_what_the_vendor_knows_but_the_model_lacks_is_forwarded_with_a_warning(
    fields: dict[str, Any], rule: Rule
) -> None:
    assert rules_broken(**fields) == {rule}
