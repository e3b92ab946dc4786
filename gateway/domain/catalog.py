"""Reads model families from parsed YAML: config/models.yaml, and a deployment's own files."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from gateway.domain.models import (
    ADAPTIVE,
    COMMON_PARAMETERS,
    LISTED_PARAMETERS,
    OPEN_ENDED,
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

_T = TypeVar("_T")
_RATIO: Final = re.compile(r"([1-9][0-9]?):([1-9][0-9]?)\Z")
_RESOLUTION: Final = re.compile(r"[0-9]{1,4}[pk]\Z")
_DEFINITION_KEYS: Final = frozenset({"ids", "like"})
"""What belongs to one definition alone and is not taken over by `like`."""

PixelTable = Mapping[str, Mapping[str, Size]]


class CatalogError(ValueError):
    """The data is wrong at `path`, such as `families.seedance-2-0.duration.min_s`."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class _Section:
    """One mapping of the data, read key by key; `close` refuses the keys that nobody asked for."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            raise CatalogError(path or "the document", "must be a mapping")
        for key in data:
            if not isinstance(key, str):
                raise CatalogError(f"{path}.{key}", "a key must be text: put it in quotes")
        self.path = path
        self._data = data
        self._unread = set(data)

    def refuse(self, key: str, problem: str) -> CatalogError:
        return CatalogError(self.join(key), problem)

    def join(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def read(self, key: str) -> object:
        self._unread.discard(key)
        return self._data.get(key)

    def close(self) -> None:
        for key in sorted(self._unread):
            raise self.refuse(key, "unknown key")

    def names(self) -> list[str]:
        return list(self._data)

    def _typed(self, key: str, kind: type[_T], noun: str, default: _T | None) -> _T:
        value = self.read(key)
        if value is None:
            if default is None:
                raise self.refuse(key, "is missing")
            return default
        # In Python a boolean is an int; in the data it is not.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.refuse(key, f"must be {noun}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._typed(key, str, "text (a ratio needs quotes)", default)

    def whole(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        number = self._typed(key, int, "a whole number", default)
        if number < least:
            raise self.refuse(key, f"must be at least {least}")
        return number

    def flag(self, key: str) -> bool:
        return self._typed(key, bool, "true or false", default=False)

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        return self._items(key, str, "a list of texts (a ratio needs quotes)", default)

    def wholes(self, key: str) -> tuple[int, ...]:
        return self._items(key, int, "a list of whole numbers", ())

    def _items(
        self, key: str, kind: type[_T], noun: str, default: tuple[_T, ...] | None
    ) -> tuple[_T, ...]:
        given = self.read(key)
        if given is None and default is not None:
            return default
        if not isinstance(given, list):
            raise self.refuse(key, f"must be {noun}")
        items = tuple(item for item in given if type(item) is kind)
        if len(items) != len(given):
            raise self.refuse(key, f"must be {noun}")
        return items

    def words(self, key: str, known: frozenset[str]) -> frozenset[str]:
        words = frozenset(self.texts(key, ()))
        for word in sorted(words - known):
            raise self.refuse(key, f"{word} is unknown; known are {', '.join(sorted(known))}")
        return words

    def section(self, key: str) -> "_Section":
        return _Section(self.read(key), self.join(key))

    def optional(self, key: str, build: Callable[["_Section"], _T]) -> _T | None:
        return None if self.read(key) is None else build(self.section(key))


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
        top = _Section(part, "")
        pixels |= top.optional("pixels", _read_pixels) or {}
        top.optional("families", lambda section: _merge_definitions(section, definitions))
        top.close()
    families = {
        name: _read_family(name, _Section(definition, f"families.{name}"), pixels)
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


def _merge_definitions(section: _Section, definitions: dict[str, dict[str, object]]) -> None:
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


def _read_pixels(section: _Section) -> dict[str, PixelTable]:
    return {name: _read_pixel_table(section.section(name)) for name in section.names()}


def _read_pixel_table(section: _Section) -> PixelTable:
    return {resolution: _read_sizes(section.section(resolution)) for resolution in section.names()}


def _read_sizes(section: _Section) -> dict[str, Size]:
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


def _read_family(name: str, section: _Section, pixels: Mapping[str, PixelTable]) -> Family:
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
    )
    section.close()
    if has_rules:
        _check_family(family, section)
    return family


def _check_family(family: Family, section: _Section) -> None:
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


def _check_mode(family: Family, rules: ModeRules, section: _Section, path: str) -> None:
    if not {*rules.resolutions} <= {*family.resolutions}:
        raise section.refuse(f"{path}.resolutions", "has a resolution that the family lacks")
    if not {*rules.ratios} <= {*family.ratios}:
        raise section.refuse(f"{path}.ratios", "has a ratio that the family lacks")
    if rules.ratio_default not in rules.ratios:
        raise section.refuse(f"{path}.ratio_default", "is not one of the ratios")


def _read_duration(section: _Section) -> DurationRule:
    rule = DurationRule(
        min_s=section.whole("min_s", least=1),
        max_s=section.whole("max_s"),
        default_s=section.whole("default_s", least=OPEN_ENDED),
        open_ended=section.flag("open_ended"),
    )
    section.close()
    if rule.max_s < rule.min_s:
        raise section.refuse("max_s", "is less than min_s")
    if not rule.allows(rule.default_s):
        raise section.refuse("default_s", f"is not allowed; allowed are {rule}")
    return rule


def _read_frames(section: _Section) -> FramesRule:
    rule = FramesRule(
        section.whole("min", least=1), section.whole("max", least=1), section.whole("step", least=1)
    )
    section.close()
    return rule


def _read_draft(section: _Section) -> DraftRules:
    rules = DraftRules(
        section.texts("resolutions"),
        section.words("without", COMMON_PARAMETERS | LISTED_PARAMETERS),
    )
    section.close()
    if not rules.resolutions:
        raise section.refuse("resolutions", "must not be empty")
    return rules


def _read_task_types(section: _Section) -> dict[str, TaskTypeRules]:
    return {name: _read_task_type(section.section(name)) for name in section.names()}


def _read_task_type(section: _Section) -> TaskTypeRules:
    rules = TaskTypeRules(
        videos_min=section.whole("videos_min", 0),
        ratios=section.texts("ratios", ()),
        durations_s=section.wholes("durations_s"),
    )
    section.close()
    return rules


def _read_modes(
    section: _Section, resolutions: tuple[str, ...], ratios: tuple[str, ...]
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
