"""Reads model families from parsed YAML: config/models.yaml, and a deployment's own files."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.domain.data_files import DataError, DataSection
from gateway.domain.models import (
    ADAPTIVE,
    COMMON_PARAMETERS,
    INPUT_VIDEO_S_MAX,
    LISTED_PARAMETERS,
    OPEN_ENDED,
    TYPICAL_S,
    Catalog,
    DraftRules,
    DurationRule,
    Family,
    FramesRule,
    Mode,
    ModeRules,
    Size,
    TaskTypeRules,
)

_RATIO: Final = re.compile(r"([1-9][0-9]?):([1-9][0-9]?)\Z")
_RESOLUTION: Final = re.compile(r"[0-9]{1,4}[pk]\Z")
_DEFINITION_KEYS: Final = frozenset({"ids", "like"})
"""What belongs to one definition alone and is not taken over by `like`."""

PixelTable = Mapping[str, Mapping[str, Size]]

CatalogError = DataError
"""What is wrong with the models' data."""


def load_catalog(
    document: Mapping[str, object],
    overrides: Sequence[Mapping[str, object]] = (),
    endpoints: Mapping[str, str] | None = None,
) -> Catalog:
    """Return the catalog of `document`, changed by each of `overrides` in turn.

    `endpoints` maps further model names, such as `ep-...`, to a family's name or to one of its ids.
    Raises CatalogError, which names the wrong key.
    """
    definitions: dict[str, dict[str, object]] = {}
    pixels: dict[str, PixelTable] = {}
    for part in (document, *overrides):
        top = DataSection(part, "")
        pixels |= top.optional("pixels", _read_pixels) or {}
        top.optional("families", lambda section: _merge_definitions(section, definitions))
        top.close()
    families = {
        name: _read_family(name, DataSection(definition, f"families.{name}"), pixels)
        for name, definition in definitions.items()
    }
    return Catalog(families, _index_models(families, endpoints or {}))


def _index_models(
    families: Mapping[str, Family], endpoints: Mapping[str, str]
) -> dict[str, Family]:
    by_model: dict[str, Family] = {}
    for family in families.values():
        for model in family.ids:
            if model in by_model:
                path = f"families.{family.name}.ids"
                raise CatalogError(path, f"{model} belongs to {by_model[model].name} already")
            by_model[model] = family
    by_id = dict(by_model)
    for endpoint, target in endpoints.items():
        found = families.get(target) or by_id.get(target)
        if found is None:
            raise CatalogError(f"endpoints.{endpoint}", f"{target} is no known family or model id")
        by_model[endpoint] = found
    return by_model


def _merge_definitions(section: DataSection, definitions: dict[str, dict[str, object]]) -> None:
    for name in section.names():
        own = section.section(name)
        base = definitions.get(name, {})
        if (like := own.text("like", "")) != "":
            if like not in definitions:
                raise own.refuse("like", f"{like} is not defined before this family")
            inherited = definitions[like].items()
            base = {key: value for key, value in inherited if key not in _DEFINITION_KEYS}
        given = {key: own.read(key) for key in own.names() if key != "like"}
        definitions[name] = {**base, **given}


def _read_pixels(section: DataSection) -> dict[str, PixelTable]:
    return {name: _read_pixel_table(section.section(name)) for name in section.names()}


def _read_pixel_table(section: DataSection) -> PixelTable:
    return {resolution: _read_sizes(section.section(resolution)) for resolution in section.names()}


def _read_sizes(section: DataSection) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for ratio in section.names():
        match section.read(ratio):
            case [int(width), int(height)] if width > 0 and height > 0:
                sizes[ratio] = (width, height)
            case _:
                raise section.refuse(ratio, "must be [width, height] in pixels")
        parts = _RATIO.match(ratio)
        if parts is None:
            raise section.refuse(ratio, 'must be a ratio such as "16:9"')
        sizes.setdefault(f"{parts[2]}:{parts[1]}", (height, width))
    return sizes


def _read_family(name: str, section: DataSection, pixels: Mapping[str, PixelTable]) -> Family:
    rules = section.text("rules", "table")
    if rules not in {"table", "none"}:
        raise section.refuse("rules", "must be none, or be left out")
    has_rules = rules == "table"
    table = section.text("pixels", None if has_rules else "")
    if table and table not in pixels:
        raise section.refuse("pixels", f"there is no table {table}")
    resolutions = section.texts("resolutions", None if has_rules else ())
    ratios = section.texts("ratios", None if has_rules else ())
    draft = section.optional("draft", _read_draft)
    task_types = section.optional("task_types", _read_task_types) or {}
    frames = section.optional("frames", _read_frames)
    family = Family(
        name=name,
        ids=section.texts("ids", ()),
        has_rules=has_rules,
        typical_run_s=section.whole("typical_run_s", 120, least=1),
        pixels=pixels.get(table, {}),
        resolutions=resolutions,
        resolution_default=section.text("resolution_default", None if has_rules else "") or None,
        ratios=ratios,
        command_ratios=section.texts("command_ratios", ()),
        duration=section.optional("duration", _read_duration) or DurationRule(),
        frames=frames,
        service_tiers=section.texts("service_tiers", ("default",)),
        output_formats=section.texts("output_formats", ("mp4",)),
        parameters=COMMON_PARAMETERS
        | section.words("parameters", LISTED_PARAMETERS)
        | ({"frames"} if frames else set())
        | ({"draft"} if draft else set())
        | ({"omni_reference_task_type"} if task_types else set()),
        draft=draft,
        task_types=task_types,
        modes=section.optional("modes", lambda modes: _read_modes(modes, resolutions, ratios))
        or {},
        input_video_s_max=section.whole("input_video_s_max", INPUT_VIDEO_S_MAX, least=1),
        tool_calls_max=section.whole("tool_calls_max", 1),
    )
    section.close()
    if has_rules:
        _check_family(family, section)
    return family


def _check_family(family: Family, section: DataSection) -> None:
    """Check that the parts of a family fit each other."""
    if not family.modes:
        raise section.refuse("modes", "is missing")
    if family.resolution_default not in family.resolutions:
        raise section.refuse("resolution_default", "is not one of the resolutions")
    fixed_ratios = {*family.ratios, *family.command_ratios} - {ADAPTIVE}
    for resolution in family.resolutions:
        if not _RESOLUTION.match(resolution):
            raise section.refuse("resolutions", f"{resolution} is not such as 480p or 4k")
        for ratio in sorted(fixed_ratios):
            if family.frame_size(resolution, ratio) is None:
                problem = f"the table has no {ratio} for {resolution}"
                raise section.refuse("pixels", problem)
    if family.draft and not {*family.draft.resolutions} <= {*family.resolutions}:
        raise section.refuse("draft.resolutions", "has a resolution that the family lacks")
    for mode, rules in family.modes.items():
        _check_mode(family, rules, section, f"modes.{mode}")


def _check_mode(family: Family, rules: ModeRules, section: DataSection, path: str) -> None:
    if not {*rules.resolutions} <= {*family.resolutions}:
        raise section.refuse(f"{path}.resolutions", "has a resolution that the family lacks")
    if not {*rules.ratios} <= {*family.ratios}:
        raise section.refuse(f"{path}.ratios", "has a ratio that the family lacks")
    if rules.ratio_default not in rules.ratios:
        raise section.refuse(f"{path}.ratio_default", "is not one of the ratios")


def _read_duration(section: DataSection) -> DurationRule:
    min_s, max_s = section.whole("min_s", least=1), section.whole("max_s")
    if max_s < min_s:
        raise section.refuse("max_s", "is less than min_s")
    default_s = section.whole("default_s", least=OPEN_ENDED)
    usual_s = TYPICAL_S if default_s == OPEN_ENDED else default_s
    rule = DurationRule(
        min_s=min_s,
        max_s=max_s,
        default_s=default_s,
        open_ended=section.flag("open_ended"),
        typical_s=section.whole("typical_s", min(max(usual_s, min_s), max_s)),
    )
    section.close()
    if not rule.allows(rule.default_s):
        raise section.refuse("default_s", f"is not allowed; allowed are {rule}")
    if not min_s <= rule.typical_s <= max_s:
        raise section.refuse("typical_s", f"must be {min_s} to {max_s}")
    return rule


def _read_frames(section: DataSection) -> FramesRule:
    rule = FramesRule(
        section.whole("min", least=1), section.whole("max", least=1), section.whole("step", least=1)
    )
    section.close()
    return rule


def _read_draft(section: DataSection) -> DraftRules:
    rules = DraftRules(
        section.texts("resolutions"),
        section.words("without", COMMON_PARAMETERS | LISTED_PARAMETERS),
    )
    section.close()
    if not rules.resolutions:
        raise section.refuse("resolutions", "must not be empty")
    return rules


def _read_task_types(section: DataSection) -> dict[str, TaskTypeRules]:
    return {name: _read_task_type(section.section(name)) for name in section.names()}


def _read_task_type(section: DataSection) -> TaskTypeRules:
    rules = TaskTypeRules(
        videos_min=section.whole("videos_min", 0),
        ratios=section.texts("ratios", ()),
        durations_s=section.wholes("durations_s"),
    )
    section.close()
    return rules


def _read_modes(
    section: DataSection, resolutions: tuple[str, ...], ratios: tuple[str, ...]
) -> dict[Mode, ModeRules]:
    modes: dict[Mode, ModeRules] = {}
    for name in section.names():
        if name not in [*Mode]:
            raise section.refuse(name, f"unknown mode; known are {', '.join(Mode)}")
        one = section.section(name)
        modes[Mode(name)] = ModeRules(
            ratio_default=one.text("ratio_default", ADAPTIVE),
            ratios=one.texts("ratios", ratios),
            resolutions=one.texts("resolutions", resolutions),
            without=one.words("without", COMMON_PARAMETERS | LISTED_PARAMETERS),
            images_max=one.whole("images_max", 0),
            videos_max=one.whole("videos_max", 0),
            audios_max=one.whole("audios_max", 0),
            audio_alone=one.flag("audio_alone"),
        )
        one.close()
    return modes
