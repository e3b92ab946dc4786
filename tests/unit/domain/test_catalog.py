from typing import Any

import pytest

from gateway.domain.catalog import CatalogError, load_catalog
from gateway.domain.models import Mode


def a_document(**changes: object) -> dict[str, Any]:
    """Return a document of one small family, with some of its keys changed or (None) taken out."""
    family: dict[str, object] = {
        "ids": ["small-1"],
        "pixels": "table",
        "resolutions": ["480p"],
        "resolution_default": "480p",
        "ratios": ["16:9", "adaptive"],
        "duration": {"min_s": 2, "max_s": 9, "default_s": 5},
        "modes": {"t2v": {}},
        **changes,
    }
    return {
        "pixels": {"table": {"480p": {"16:9": [864, 480]}}},
        "families": {"small": {key: value for key, value in family.items() if value is not None}},
    }


def problem_of(*documents: Any, endpoints: dict[str, str] | None = None) -> str:
    with pytest.raises(CatalogError) as caught:
        load_catalog(documents[0], documents[1:], endpoints)
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return str(caught.value)


def test_a_small_family_is_read() -> None:
    family = load_catalog(a_document()).families["small"]

    assert family.modes[Mode.T2V].ratios == ("16:9", "adaptive")
    assert family.frame_size("480p", "9:16") == (480, 864)
    assert family.service_tiers == ("default",)
    assert family.frames is None
    assert "frames" not in family.parameters


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spare": 1}, "families.small.spare: unknown key"),
        ({"pixels": None}, "families.small.pixels: is missing"),
        ({"pixels": "other"}, "families.small.pixels: there is no table other"),
        ({"ids": "small-1"}, "families.small.ids: must be a list of texts"),
        ({"ids": [1]}, "families.small.ids: must be a list of texts"),
        ({"rules": "some"}, "families.small.rules: must be none, or be left out"),
        ({"resolutions": None}, "families.small.resolutions: must be a list"),
        ({"resolutions": ["480"]}, "resolution_default: is not one of the resolutions"),
        (
            {"resolutions": ["480p", "big"]},
            "families.small.resolutions: big is not such as 480p or 4k",
        ),
        ({"resolutions": ["480p", "720p"]}, "pixels: the table has no 16:9 for 720p"),
        ({"ratios": ["16:9", 969, "adaptive"]}, "ratios: must be a list of texts (a ratio needs"),
        ({"ratios": ["1:1", "adaptive"]}, "pixels: the table has no 1:1 for 480p"),
        ({"command_ratios": ["9:21"]}, "pixels: the table has no 9:21 for 480p"),
        ({"typical_run_s": 0}, "families.small.typical_run_s: must be at least 1"),
        ({"typical_run_s": True}, "families.small.typical_run_s: must be a whole number"),
        ({"typical_run_s": "1"}, "families.small.typical_run_s: must be a whole number"),
        ({"duration": 5}, "families.small.duration: must be a mapping"),
        ({"duration": {"min_s": 2, "max_s": 9}}, "duration.default_s: is missing"),
        (
            {"duration": {"min_s": 2, "max_s": 1, "default_s": 2}},
            "duration.max_s: is less than min_s",
        ),
        (
            {"duration": {"min_s": 2, "max_s": 9, "default_s": -1}},
            "duration.default_s: is not allowed; allowed are 2 to 9",
        ),
        ({"frames": {"min": 29, "max": 289}}, "families.small.frames.step: is missing"),
        ({"parameters": ["speed"]}, "families.small.parameters: speed is unknown; known are"),
        ({"draft": {"resolutions": []}}, "draft.resolutions: must not be empty"),
        ({"draft": {"resolutions": ["720p"]}}, "draft.resolutions: has a resolution that the"),
        ({"draft": {"resolutions": ["480p"], "of": 1}}, "families.small.draft.of: unknown key"),
        ({"task_types": {"edit": {"durations_s": ["-1"]}}}, "must be a list of whole numbers"),
        ({"modes": None}, "families.small.modes: is missing"),
        ({"modes": {"v2v": {}}}, "families.small.modes.v2v: unknown mode; known are t2v, i2v"),
        ({"modes": {"t2v": {"audio_alone": "yes"}}}, "t2v.audio_alone: must be true or false"),
        ({"modes": {"t2v": {"ratio_default": "1:1"}}}, "t2v.ratio_default: is not one of"),
        ({"modes": {"t2v": {"ratios": ["1:1"]}}}, "t2v.ratios: has a ratio that the family lacks"),
        ({"modes": {"t2v": {"resolutions": ["4k"]}}}, "t2v.resolutions: has a resolution that"),
        ({"modes": {"t2v": {"without": ["speed"]}}}, "modes.t2v.without: speed is unknown"),
        ({"like": "large"}, "families.small.like: large is not defined before this family"),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, object], problem: str) -> None:
    assert problem in problem_of(a_document(**changes))


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"16:9": [864]}, "pixels.t.480p.16:9: must be [width, height] in pixels"),
        ({"16:9": [864, 0]}, "pixels.t.480p.16:9: must be [width, height] in pixels"),
        ({"wide": [864, 480]}, 'pixels.t.480p.wide: must be a ratio such as "16:9"'),
        ({969: [864, 480]}, "pixels.t.480p.969: a key must be text: put it in quotes"),
        ([864, 480], "pixels.t.480p: must be a mapping"),
    ],
)
def test_a_wrong_frame_size_is_named(sizes: object, problem: str) -> None:
    assert problem in problem_of({"pixels": {"t": {"480p": sizes}}})


def test_an_unknown_part_is_named() -> None:
    assert problem_of({"familys": {}}) == "familys: unknown key"


def test_a_document_that_is_no_mapping_is_refused() -> None:
    assert problem_of(["families"]) == "the document: must be a mapping"


def test_an_id_belongs_to_one_family() -> None:
    second = {"families": {"second": {"like": "small", "ids": ["small-1"]}}}

    assert problem_of(a_document(), second) == (
        "families.second.ids: small-1 belongs to small already"
    )


def test_a_deployment_overrides_single_keys_of_a_family() -> None:
    override = {"families": {"small": {"duration": {"min_s": 2, "max_s": 20, "default_s": 5}}}}

    family = load_catalog(a_document(), [override]).families["small"]

    assert family.duration.max_s == 20
    assert family.ids == ("small-1",)


def test_a_deployment_adds_a_family_like_another_with_a_table_of_its_own() -> None:
    override = {
        "pixels": {"wide": {"480p": {"16:9": [1000, 500]}}},
        "families": {"tuned": {"like": "small", "ids": ["tuned-1"], "pixels": "wide"}},
    }

    catalog = load_catalog(a_document(), [override])

    assert catalog.families["tuned"].frame_size("480p", "16:9") == (1000, 500)
    assert catalog.families["tuned"].ids == ("tuned-1",)
    assert catalog.families["small"].frame_size("480p", "16:9") == (864, 480)


def test_a_family_like_another_takes_no_id_over() -> None:
    override = {"families": {"tuned": {"like": "small"}}}

    assert load_catalog(a_document(), [override]).families["tuned"].ids == ()


def test_a_deployment_switches_rules_off() -> None:
    override = {"families": {"small": {"rules": "none"}, "bare": {"rules": "none"}}}

    catalog = load_catalog(a_document(), [override])

    assert not catalog.families["small"].has_rules
    assert catalog.families["small"].duration.max_s == 9
    assert catalog.families["bare"].max_frame_size() is None


def test_endpoints_name_a_family_or_one_of_its_ids() -> None:
    catalog = load_catalog(a_document(), endpoints={"ep-1": "small", "ep-2": "small-1"})

    assert catalog.find("ep-1") is catalog.find("ep-2") is catalog.families["small"]
    assert problem_of(a_document(), endpoints={"ep-1": "ep-2", "ep-2": "small"}) == (
        "endpoints.ep-1: ep-2 is no known family or model id"
    )


def test_an_empty_document_is_an_empty_catalog() -> None:
    assert load_catalog({}).by_model == {}
