"""What each model family allows: the types, and the catalog that answers for a model's name.

The facts are data (config/models.yaml); `gateway/domain/catalog.py` reads them into these types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

Size = tuple[int, int]
"""Width and height in pixels."""

ADAPTIVE: Final = "adaptive"
OPEN_ENDED: Final = -1
"""The duration that leaves the length to the model."""
DURATION_MAX_S: Final = 3600
"""No family allows more: what stands for a limit where rules are off."""
INPUT_VIDEO_S_MAX: Final = 31
"""The most seconds of reference video that a family takes: what stands for one that says none."""
TYPICAL_S: Final = 5
"""The length that is taken to be usual where a family doesn't say."""

COMMON_PARAMETERS: Final = frozenset(
    {
        "resolution",
        "ratio",
        "duration",
        "framespersecond",
        "watermark",
        "service_tier",
        "execution_expires_after",
        "return_last_frame",
        "safety_identifier",
    }
)
"""What every family takes."""
LISTED_PARAMETERS: Final = frozenset(
    {"seed", "camera_fixed", "generate_audio", "priority", "tools", "output_format"}
)
"""What a family takes if its `parameters` name it."""


class Mode(StrEnum):
    """What kind of content a request brings."""

    T2V = "t2v"
    I2V = "i2v"
    FIRST_LAST = "first_last"
    R2V = "r2v"
    DRAFT = "draft"

    @property
    def label(self) -> str:
        """The mode's name in the vendor's messages, which know no mode of two frames."""
        return Mode.I2V.value if self is Mode.FIRST_LAST else self.value

    @property
    def phrase(self) -> str:
        return _PHRASES[self]


_PHRASES: Final[Mapping[Mode, str]] = {
    Mode.T2V: "text alone",
    Mode.I2V: "a first frame",
    Mode.FIRST_LAST: "a first and a last frame",
    Mode.R2V: "reference media",
    Mode.DRAFT: "a draft task",
}


@dataclass(frozen=True, slots=True)
class DurationRule:
    """Whole seconds from `min_s` to `max_s`; with `open_ended` also -1.

    `typical_s` is what an open-ended length is held at, where the deployment says so.
    """

    min_s: int = 1
    max_s: int = DURATION_MAX_S
    default_s: int = OPEN_ENDED
    open_ended: bool = True
    typical_s: int = TYPICAL_S

    def allows(self, duration_s: int) -> bool:
        if duration_s == OPEN_ENDED:
            return self.open_ended
        return self.min_s <= duration_s <= self.max_s

    def __str__(self) -> str:
        text = f"{self.min_s} to {self.max_s}"
        return f"{text}, or {OPEN_ENDED}" if self.open_ended else text


@dataclass(frozen=True, slots=True)
class FramesRule:
    """`min` frames, and as many steps of `step` more as `max` allows."""

    min: int
    max: int
    step: int

    def allows(self, frames: int) -> bool:
        return frames in range(self.min, self.max + 1, self.step)

    def __str__(self) -> str:
        return f"{self.min} to {self.max} in steps of {self.step}"


@dataclass(frozen=True, slots=True)
class ModeRules:
    """What one mode of a family allows. `without` names parameters that the mode lacks."""

    ratio_default: str = ADAPTIVE
    ratios: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    without: frozenset[str] = frozenset()
    images_max: int = 0
    videos_max: int = 0
    audios_max: int = 0
    audio_alone: bool = False


@dataclass(frozen=True, slots=True)
class DraftRules:
    """What `draft: true` asks for: one of `resolutions`, and none of `without`."""

    resolutions: tuple[str, ...]
    without: frozenset[str]


@dataclass(frozen=True, slots=True)
class TaskTypeRules:
    """What a declared `omni_reference_task_type` asks for; an empty tuple allows everything."""

    videos_min: int = 0
    ratios: tuple[str, ...] = ()
    durations_s: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One model family. With `has_rules` off, only shape, conflicts and prices are checked."""

    name: str
    ids: tuple[str, ...]
    has_rules: bool
    typical_run_s: int
    pixels: Mapping[str, Mapping[str, Size]]
    resolutions: tuple[str, ...]
    resolution_default: str | None
    ratios: tuple[str, ...]
    command_ratios: tuple[str, ...]
    """Ratios that no body field takes: they go upstream as a text command."""
    duration: DurationRule
    frames: FramesRule | None
    service_tiers: tuple[str, ...]
    output_formats: tuple[str, ...]
    parameters: frozenset[str]
    draft: DraftRules | None
    task_types: Mapping[str, TaskTypeRules]
    modes: Mapping[Mode, ModeRules]
    input_video_s_max: int = INPUT_VIDEO_S_MAX
    """Seconds of reference video, all together, as far as the upstream bears it."""
    tool_calls_max: int = 1
    """Calls of tools that one task is taken to make at most."""

    def frame_size(self, resolution: str, ratio: str) -> Size | None:
        """Return the output's width and height; None where the table has no entry.

        `adaptive` has none: its size is the upstream's to choose. See `max_frame_size`.
        """
        return self.pixels.get(resolution, {}).get(ratio)

    def max_frame_size(self, resolution: str | None = None) -> Size | None:
        """Return the frame of most pixels, of `resolution` or of all; None without a table."""
        tables = self.pixels.values() if resolution is None else [self.pixels.get(resolution, {})]
        sizes = [size for table in tables for size in table.values()]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every family, and which of them each model id or endpoint id belongs to."""

    families: Mapping[str, Family]
    by_model: Mapping[str, Family]

    @property
    def resolutions(self) -> tuple[str, ...]:
        """What some family makes."""
        named = (name for family in self.families.values() for name in family.resolutions)
        return tuple(dict.fromkeys(named))

    def find(self, model: str) -> Family | None:
        return self.by_model.get(model)
