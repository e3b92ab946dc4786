"""The shipped table against the vendor's pages, written down here a second time."""

from dataclasses import dataclass, field
from typing import Final

import pytest

from gateway.domain.models import Family, Mode
from tests.support.requests import shipped_catalog

PREFIXES: Final = ("doubao-", "dreamina-", "")
FIXED: Final = ["16:9", "4:3", "1:1", "3:4", "9:16", "21:9"]
ALL: Final = [*FIXED, "adaptive"]


@dataclass
class Expected:
    """One row of the vendor's table of models."""

    ids: str
    resolutions: str
    default: str
    seconds: tuple[int, int, int]
    modes: str
    ratio: dict[str, str]
    parameters: str = ""
    open_ended: bool = True
    tiers: str = "default"
    references: tuple[int, int, int] = (0, 0, 0)
    fixed_only: set[str] = field(default_factory=set)


ADAPTIVE_RATIO: Final = {"*": "adaptive"}
V1: Final = {"t2v": "16:9", "r2v": "16:9", "*": "adaptive"}
PAGE: Final = {
    "seedance-1-0-lite-t2v": Expected(
        "seedance-1-0-lite-t2v-250428", "480p 720p 1080p", "720p", (2, 12, 5), "t2v", V1,
        "seed camera_fixed frames", open_ended=False, fixed_only={"t2v"},
    ),
    "seedance-1-0-lite-i2v": Expected(
        "seedance-1-0-lite-i2v-250428", "480p 720p 1080p", "720p", (2, 12, 5),
        "i2v first_last r2v", V1, "seed camera_fixed frames", open_ended=False,
        references=(4, 0, 0), fixed_only={"r2v"},
    ),
    "seedance-1-0-pro": Expected(
        "seedance-1-0-pro-250528", "480p 720p 1080p", "1080p", (2, 12, 5),
        "t2v i2v first_last", V1, "seed camera_fixed frames", open_ended=False,
        tiers="default flex", fixed_only={"t2v"},
    ),
    "seedance-1-0-pro-fast": Expected(
        "seedance-1-0-pro-fast-251015", "480p 720p 1080p", "1080p", (2, 12, 5), "t2v i2v", V1,
        "seed camera_fixed frames", open_ended=False, tiers="default flex", fixed_only={"t2v"},
    ),
    "seedance-1-5-pro": Expected(
        "seedance-1-5-pro-251215", "480p 720p 1080p", "720p", (4, 12, 5),
        "t2v i2v first_last draft", ADAPTIVE_RATIO, "seed camera_fixed generate_audio draft",
        tiers="default flex",
    ),
    "seedance-2-0": Expected(
        "seedance-2-0-260128", "480p 720p 1080p 4k", "720p", (4, 15, 5),
        "t2v i2v first_last r2v", ADAPTIVE_RATIO, "seed generate_audio priority tools",
        references=(9, 3, 3),
    ),
    "seedance-2-0-fast": Expected(
        "seedance-2-0-fast-260128", "480p 720p", "720p", (4, 15, 5), "t2v i2v first_last r2v",
        ADAPTIVE_RATIO, "seed generate_audio priority tools", references=(9, 3, 3),
    ),
    "seedance-2-0-mini": Expected(
        "seedance-2-0-mini-260615", "480p 720p", "720p", (4, 15, 5), "t2v i2v first_last r2v",
        ADAPTIVE_RATIO, "seed generate_audio priority tools", references=(9, 3, 3),
    ),
    "seedance-2-5": Expected(
        "seedance-2-5-260628", "480p 720p 1080p", "720p", (4, 30, -1),
        "t2v i2v first_last r2v draft", ADAPTIVE_RATIO,
        "seed generate_audio priority tools output_format draft omni_reference_task_type",
        references=(30, 10, 10),
    ),
}  # fmt: skip
COMMON: Final = {
    "resolution", "ratio", "duration", "framespersecond", "watermark", "service_tier",
    "execution_expires_after", "return_last_frame", "safety_identifier",
}  # fmt: skip
# Families by the column of the page's table of frames; 16:9, 4:3, 1:1, 21:9.
FRAMES: Final = {
    ("480p", "1.0"): "864x480 736x544 640x640 960x416",
    ("480p", "1.5 2.0"): "864x496 752x560 640x640 992x432",
    ("480p", "2.5"): "854x480 752x560 640x640 992x432",
    ("720p", "1.0"): "1248x704 1120x832 960x960 1504x640",
    ("720p", "1.5 2.0 2.5"): "1280x720 1112x834 960x960 1470x630",
    ("1080p", "1.0"): "1920x1088 1664x1248 1440x1440 2176x928",
    ("1080p", "1.5 2.0 2.5"): "1920x1080 1664x1248 1440x1440 2206x946",
    ("4k", "2.0"): "3840x2160 3326x2494 2880x2880 4398x1886",
}


def family_of(name: str) -> Family:
    return shipped_catalog().families[name]


def test_the_table_holds_the_families_of_the_page() -> None:
    assert set(shipped_catalog().families) == {*PAGE, "house-model"}


@pytest.mark.parametrize("name", PAGE)
def test_every_family_is_found_under_all_three_prefixes(name: str) -> None:
    catalog = shipped_catalog()

    assert {*family_of(name).ids} == {prefix + PAGE[name].ids for prefix in PREFIXES}
    for prefix in PREFIXES:
        assert catalog.find(prefix + PAGE[name].ids) is family_of(name)


def test_finds_mapped_endpoints_and_nothing_else() -> None:
    catalog = shipped_catalog()

    assert catalog.find("ep-20261122-abcde") is family_of("seedance-1-0-pro")
    for unknown in ("", "ep-other", "seedance-1-0-pro", "seedance-1-0-pro-250428"):
        assert catalog.find(unknown) is None


@pytest.mark.parametrize("name", PAGE)
def test_a_family_allows_what_the_page_says(name: str) -> None:
    family, page = family_of(name), PAGE[name]

    assert family.has_rules
    assert list(family.resolutions) == page.resolutions.split()
    assert family.resolution_default == page.default
    rule = family.duration
    assert (rule.min_s, rule.max_s, rule.default_s) == page.seconds
    assert rule.open_ended is page.open_ended
    assert family.parameters == COMMON | set(page.parameters.split())
    assert list(family.service_tiers) == page.tiers.split()
    assert list(family.command_ratios) == (["9:21"] if "-1-0-" in name else [])
    assert {str(mode) for mode in family.modes} == set(page.modes.split())


@pytest.mark.parametrize("name", PAGE)
def test_a_mode_allows_what_the_page_says(name: str) -> None:
    family, page = family_of(name), PAGE[name]

    for mode, rules in family.modes.items():
        assert rules.ratio_default == page.ratio.get(mode, page.ratio["*"])
        expected = FIXED if mode in page.fixed_only else ALL
        if name == "seedance-2-5" and mode in {Mode.I2V, Mode.FIRST_LAST}:
            expected = ["adaptive"]
        assert list(rules.ratios) == expected
        counts = (rules.images_max, rules.videos_max, rules.audios_max)
        assert counts == (page.references if mode is Mode.R2V else (0, 0, 0))
        assert rules.audio_alone is (name == "seedance-2-5" and mode is Mode.R2V)


def test_particulars_of_single_families() -> None:
    lite = family_of("seedance-1-0-lite-i2v").modes[Mode.R2V]
    assert lite.resolutions == ("480p", "720p")
    assert lite.without == {"camera_fixed"}
    draft_15 = family_of("seedance-1-5-pro").draft
    assert draft_15 is not None
    assert draft_15.resolutions == ("480p",)
    assert draft_15.without == {"return_last_frame"}
    v25 = family_of("seedance-2-5")
    assert v25.draft is not None
    assert v25.draft.resolutions == ("480p",)
    assert not v25.draft.without
    assert v25.modes[Mode.DRAFT].resolutions == ("1080p",)
    assert v25.output_formats == ("mp4", "mov")
    assert list(v25.task_types) == ["auto", "reference", "edit", "extend"]
    assert family_of("seedance-2-0").output_formats == ("mp4",)


@pytest.mark.parametrize("name", PAGE)
def test_frames_are_given_in_seconds_and_a_frame_or_not_at_all(name: str) -> None:
    rule = family_of(name).frames

    if "-1-0-" not in name:
        assert rule is None
        return
    assert rule is not None
    allowed = {frames for frames in range(-10, 500) if rule.allows(frames)}
    assert allowed == {25 + 4 * n for n in range(500) if 29 <= 25 + 4 * n <= 289}
    assert str(rule) == "29 to 289 in steps of 4"


@pytest.mark.parametrize("name", PAGE)
def test_durations_are_allowed_from_end_to_end(name: str) -> None:
    least, most, _ = PAGE[name].seconds
    rule = family_of(name).duration

    allowed = {seconds for seconds in range(-5, 100) if rule.allows(seconds)}
    assert allowed == {*range(least, most + 1), *([-1] if PAGE[name].open_ended else [])}


@pytest.mark.parametrize("name", PAGE)
def test_output_frames_are_those_of_the_page(name: str) -> None:
    family = family_of(name)
    version = name.removeprefix("seedance-")[:3].replace("-", ".")
    pages = {res: row.split() for (res, versions), row in FRAMES.items() if version in versions}

    for resolution in family.resolutions:
        for ratio, size in zip(["16:9", "4:3", "1:1", "21:9"], pages[resolution], strict=True):
            width, height = map(int, size.split("x"))
            transposed = ":".join(reversed(ratio.split(":")))
            assert family.frame_size(resolution, ratio) == (width, height)
            assert family.frame_size(resolution, transposed) == (height, width)


def test_the_largest_frame_is_that_of_most_pixels() -> None:
    family = family_of("seedance-1-0-pro")

    assert family.max_frame_size("480p") == (864, 480)
    assert family.max_frame_size("1080p") == (1920, 1088)
    assert family.max_frame_size() == (1920, 1088)
    assert family.max_frame_size("8k") is None
    assert family.frame_size("480p", "adaptive") is None
    assert family_of("house-model").max_frame_size() is None


def test_a_family_without_rules_leaves_the_length_open() -> None:
    family = family_of("house-model")

    assert not family.has_rules
    assert (family.duration.min_s, family.duration.default_s) == (1, -1)
    assert family.resolution_default is None
    assert family.typical_run_s == 120


def test_modes_have_the_vendors_labels() -> None:
    assert [mode.label for mode in Mode] == ["t2v", "i2v", "i2v", "r2v", "draft"]
    assert len({mode.phrase for mode in Mode}) == len(Mode)
