"""What is refused, and what only warned of, where the per-model rules warn or are off."""

from dataclasses import replace
from typing import Final

import pytest

from gateway.domain.policy import Validation
from gateway.domain.requests import normalize
from gateway.errors import InvalidRequest
from tests.support.requests import (
    DEFAULT_POLICY,
    PRO,
    V20,
    a_body,
    a_text,
    an_image,
    normalized,
    shipped_catalog,
)

WARN: Final = replace(DEFAULT_POLICY, validation=Validation.WARN)


def test_warn_lets_a_model_rule_pass_and_says_so() -> None:
    request = normalized(a_text("a fox --dur 20"), policy=WARN, camera_fixed=True, model=V20)

    assert request.parameters.as_json() == {"duration": 20, "camera_fixed": True}
    assert [str(warning.rule) for warning in request.warnings] == ["parameter", "duration"]
    assert "20 is given, allowed are 4 to 15, or -1" in request.warnings[1].message


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"duration": "abc"}, "whole seconds from 1 to 3600, or -1"),
        ({"duration": 3_601}, "whole seconds from 1 to 3600, or -1"),
        ({"frames": 0}, "whole numbers from 1 to 86400"),
        ({"ratio": "wide"}, "ratios such as 16:9, and adaptive"),
        ({"resolution": "8k"}, "480p, 720p, 1080p, 4k"),
        ({"service_tier": "turbo"}, "default, flex"),
        ({"output_format": "../mp4"}, "words such as mp4, mov"),
    ],
)
def test_a_refusal_under_warn_names_what_warn_takes(
    fields: dict[str, object], allowed: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize({**a_body(), **fields}, shipped_catalog(), WARN)
    assert refused.value.message.endswith(f"allowed are {allowed}.")


@pytest.mark.parametrize(
    "fields",
    [
        {"duration": "abc"},
        {"duration": 0},
        {"duration": -2},
        {"duration": 3_601},
        {"frames": 0},
        {"frames": 86_401},
        {"framespersecond": 30},
        {"service_tier": "turbo"},
        {"tools": [{"type": "code"}]},
        {"generate_audio": "loud"},
        {"resolution": "big"},
        {"ratio": "wide"},
        {"ratio": "keep_ratio"},
        {"content": [a_text("a fox --dur 5 --dur 6")]},
        {"content": [an_image(), an_image()]},
        {"seed": "x"},
    ],
)
@pytest.mark.parametrize("model", [PRO, "house-1"])
def test_shape_conflicts_and_prices_are_always_enforced(
    model: str, fields: dict[str, object]
) -> None:
    body = {**a_body(model=model), **fields}
    with pytest.raises(InvalidRequest):
        normalize(body, shipped_catalog(), WARN)


def test_a_family_without_rules_takes_what_has_the_right_shape() -> None:
    request = normalized(
        an_image("reference_image"),
        model="house-1",
        resolution="8k",
        ratio="5:4",
        duration=90,
        frames=200,
        tools=[{"type": "web_search"}],
        camera_fixed=False,
        output_format="webm",
        omni_reference_task_type="auto",
    )

    assert request.warnings == ()
    assert (request.parameters.frames, request.duration_s) == (200, 90)
    assert request.parameters.camera_fixed is False
    assert request.parameters.as_json()["tools"] == [{"type": "web_search"}]
