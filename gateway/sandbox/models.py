"""The model families, their rules and their frame sizes, as the vendor's pages print them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

FPS: Final = 24
PREFIXES: Final = ("doubao-", "dreamina-", "")
RATIOS: Final = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
TALL_TWIN: Final = "9:21"
"""On no current page; the first 1.0 models took it as a text command: 21:9 turned over."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Family:
    """One model: what it accepts. `duration_default` -1 means that the model decides."""

    name: str
    date: str
    era: str
    resolutions: tuple[str, ...]
    resolution_default: str
    duration_min: int
    duration_max: int
    duration_default: int = 5
    is_open_ended: bool = False
    text: bool = True
    first_frame: bool = True
    last_frame: bool = False
    reference_images: bool = False
    reference_videos_max: int = 0
    reference_audios_max: int = 0
    reference_s_max: int = 0
    has_audio: bool = False
    has_draft: bool = False
    has_flex: bool = False
    has_tools: bool = False
    has_frames: bool = False
    has_mov: bool = False
    has_task_types: bool = False
    lone_audio: bool = False
    camera_fixed: bool = False

    @property
    def model_id(self) -> str:
        return f"{self.name}-{self.date}"


_ALL: Final = ("480p", "720p", "1080p")

_FAMILIES: Final = (
    Family(
        name="seedance-1-0-lite-t2v",
        date="250428",
        era="1.0",
        resolutions=_ALL,
        resolution_default="720p",
        duration_min=2,
        duration_max=12,
        first_frame=False,
        has_frames=True,
        camera_fixed=True,
    ),
    Family(
        name="seedance-1-0-lite-i2v",
        date="250428",
        era="1.0",
        resolutions=_ALL,
        resolution_default="720p",
        duration_min=2,
        duration_max=12,
        text=False,
        last_frame=True,
        reference_images=True,
        has_frames=True,
        camera_fixed=True,
    ),
    Family(
        name="seedance-1-0-pro",
        date="250528",
        era="1.0",
        resolutions=_ALL,
        resolution_default="1080p",
        duration_min=2,
        duration_max=12,
        last_frame=True,
        has_flex=True,
        has_frames=True,
        camera_fixed=True,
    ),
    Family(
        name="seedance-1-0-pro-fast",
        date="251015",
        era="1.0",
        resolutions=_ALL,
        resolution_default="1080p",
        duration_min=2,
        duration_max=12,
        has_flex=True,
        has_frames=True,
        camera_fixed=True,
    ),
    Family(
        name="seedance-1-5-pro",
        date="251215",
        era="1.5",
        resolutions=_ALL,
        resolution_default="720p",
        duration_min=4,
        duration_max=12,
        is_open_ended=True,
        last_frame=True,
        has_audio=True,
        has_draft=True,
        has_flex=True,
        camera_fixed=True,
    ),
    *(
        Family(
            name=name,
            date=date,
            era="2.0",
            resolutions=resolutions,
            resolution_default="720p",
            duration_min=4,
            duration_max=15,
            is_open_ended=True,
            last_frame=True,
            reference_images=True,
            reference_videos_max=3,
            reference_audios_max=3,
            reference_s_max=15,
            has_audio=True,
            has_tools=True,
        )
        for name, date, resolutions in (
            ("seedance-2-0", "260128", (*_ALL, "4k")),
            ("seedance-2-0-fast", "260128", ("480p", "720p")),
            ("seedance-2-0-mini", "260615", ("480p", "720p")),
        )
    ),
    Family(
        name="seedance-2-5",
        date="260628",
        era="2.5",
        resolutions=_ALL,
        resolution_default="720p",
        duration_min=4,
        duration_max=30,
        duration_default=-1,
        is_open_ended=True,
        last_frame=True,
        reference_images=True,
        reference_videos_max=10,
        reference_audios_max=10,
        reference_s_max=30,
        has_audio=True,
        has_draft=True,
        has_tools=True,
        has_mov=True,
        has_task_types=True,
        lone_audio=True,
    ),
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {family.model_id: family for family in _FAMILIES}
)
"""Bare model id -> family."""

# Landscape sizes by (resolution, era): 16:9, 4:3, 1:1, 21:9.
_LANDSCAPE: Final[Mapping[tuple[str, str], tuple[Size, Size, Size, Size]]] = MappingProxyType(
    {
        ("480p", "1.0"): ((864, 480), (736, 544), (640, 640), (960, 416)),
        ("480p", "1.5"): ((864, 496), (752, 560), (640, 640), (992, 432)),
        ("480p", "2.0"): ((864, 496), (752, 560), (640, 640), (992, 432)),
        ("480p", "2.5"): ((854, 480), (752, 560), (640, 640), (992, 432)),
        ("720p", "1.0"): ((1248, 704), (1120, 832), (960, 960), (1504, 640)),
        ("720p", "1.5"): ((1280, 720), (1112, 834), (960, 960), (1470, 630)),
        ("720p", "2.0"): ((1280, 720), (1112, 834), (960, 960), (1470, 630)),
        ("720p", "2.5"): ((1280, 720), (1112, 834), (960, 960), (1470, 630)),
        ("1080p", "1.0"): ((1920, 1088), (1664, 1248), (1440, 1440), (2176, 928)),
        ("1080p", "1.5"): ((1920, 1080), (1664, 1248), (1440, 1440), (2206, 946)),
        ("1080p", "2.0"): ((1920, 1080), (1664, 1248), (1440, 1440), (2206, 946)),
        ("1080p", "2.5"): ((1920, 1080), (1664, 1248), (1440, 1440), (2206, 946)),
        ("4k", "2.0"): ((3840, 2160), (3326, 2494), (2880, 2880), (4398, 1886)),
    }
)


def find_family(model_id: str) -> Family | None:
    """Return the family of a model id under any of the three prefixes, or None."""
    for prefix in PREFIXES:
        if model_id.startswith(prefix):
            family = FAMILIES.get(model_id[len(prefix) :])
            if family is not None:
                return family
    return None


def frame_size(resolution: str, era: str, ratio: str) -> Size:
    """Return (width, height) in pixels; the tall ratios are the wide ones turned over.

    Raises:
        KeyError: the table has no such size.
    """
    wide, standard, square, cinema = _LANDSCAPE[resolution, era]
    return {
        "16:9": wide,
        "4:3": standard,
        "1:1": square,
        "21:9": cinema,
        "9:16": wide[::-1],
        "3:4": standard[::-1],
        TALL_TWIN: cinema[::-1],
    }[ratio]


def all_frame_sizes() -> list[Size]:
    """Return every frame size a task can have, smallest first."""
    sizes = {
        size
        for landscape in _LANDSCAPE.values()
        for (width, height) in landscape
        for size in ((width, height), (height, width))
    }
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))
