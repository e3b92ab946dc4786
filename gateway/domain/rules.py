"""What a model allows, checked against the catalog, in the words of the vendor's own refusals."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.models import DURATION_MAX_S, OPEN_ENDED, Family, Mode, ModeRules
from gateway.domain.parameters import FRAMES_MAX, READINGS
from gateway.domain.policy import Validation
from gateway.domain.refusals import join, show
from gateway.errors import InvalidRequest

_UNSUPPORTED: Final = "InvalidParameter.UnsupportedParameter"
_TASK_TYPE: Final = "InvalidParameter.TaskTypeConstraint"

NEUTRAL: Final[Mapping[str, object]] = {
    "camera_fixed": False,
    "generate_audio": False,
    "draft": False,
    "priority": 0,
    "output_format": "mp4",
    "omni_reference_task_type": "auto",
}
"""Values that ask for nothing: on a family that lacks the parameter they mean its absence."""


class Rule(StrEnum):
    """The per-model rules, as counted when they only warn."""

    MODE = "mode"
    REFERENCES = "references"
    PARAMETER = "parameter"
    RESOLUTION = "resolution"
    RATIO = "ratio"
    DURATION = "duration"
    FRAMES = "frames"
    SERVICE_TIER = "service_tier"
    OUTPUT_FORMAT = "output_format"
    DRAFT = "draft"
    TASK_TYPE = "task_type"


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    error: InvalidRequest


@dataclass(frozen=True, slots=True)
class MediaCounts:
    """How much media the content brings: images of any role, videos, audios."""

    images: int = 0
    videos: int = 0
    audios: int = 0


@dataclass(frozen=True, slots=True)
class Scope:
    """What the checks of one request are about. `label` is the model's name without its date."""

    label: str
    family: Family
    mode: Mode
    counts: MediaCounts
    validation: Validation

    @property
    def mode_rules(self) -> ModeRules:
        return self.family.modes.get(self.mode) or ModeRules()

    def refuse(
        self, param: str, problem: str, *, spelled: str = "", code: str = ""
    ) -> InvalidRequest:
        shown = f"{param} ({spelled})" if spelled else param
        message = (
            f"the parameter {shown} specified in the request is not valid "
            f"for model {self.label} in {self.mode.label}: {problem}."
        )
        return InvalidRequest(message, param=param, code=code)

    def refuse_value(
        self, name: str, value: object, *, spelled: str = "", allowed: str = "", code: str = ""
    ) -> InvalidRequest:
        """Return the error that names the field, the value given, and what is allowed."""
        given = "no value" if spelled and value == "" else show(value)
        problem = f"{given} is given, allowed are {allowed or self.allowed(name)}"
        return self.refuse(name, problem, spelled=spelled, code=code)

    def refuse_shape(self, name: str, value: object, *, spelled: str) -> InvalidRequest:
        """Return the error for a value that is refused whether or not rules only warn."""
        is_rule_bound = self.validation is Validation.ENFORCE
        allowed = self.allowed(name) if is_rule_bound else READINGS[name].allowed
        return self.refuse_value(name, value, spelled=spelled, allowed=allowed)

    def refuse_lacking(self, name: str) -> InvalidRequest:
        return self.refuse(name, "the model has no such parameter", code=_UNSUPPORTED)

    def lacks(self, name: str) -> bool:
        """Whether the model, or the model in this mode, has no such parameter."""
        return name not in self.family.parameters or name in self.mode_rules.without

    def means_absence(self, name: str, value: object) -> bool:
        """Whether the model lacks the parameter, and `value` doesn't ask for it either.

        Not so for a finished draft: what it has fixed must not be sent, whatever its value.
        """
        if not self.family.has_rules or value != NEUTRAL.get(name):
            return False
        return name not in self.family.parameters or (
            self.mode is not Mode.DRAFT and name in self.mode_rules.without
        )

    def allowed(self, name: str) -> str:
        """Return what the family, or where it says nothing the shape, allows for a parameter."""
        family = self.family
        words: tuple[str, ...] = ()
        match name:
            case "resolution":
                words = self.mode_rules.resolutions
            case "ratio":
                words = (*self.mode_rules.ratios, *family.command_ratios)
            case "duration" if family.has_rules:
                return str(family.duration)
            case "frames" if family.frames:
                return str(family.frames)
            case "service_tier" if family.has_rules:
                words = family.service_tiers
            case "output_format" if family.has_rules:
                words = family.output_formats
            case "omni_reference_task_type":
                words = tuple(family.task_types)
        return join(words) or READINGS[name].allowed


def find_violations(scope: Scope, given: Mapping[str, object]) -> Iterator[Violation]:
    """Yield what the model's rules forbid in the parameters `given` and in the content."""
    if not scope.family.has_rules:
        return
    if scope.mode not in scope.family.modes:
        modes = join(mode.phrase for mode in scope.family.modes)
        problem = f"{scope.mode.phrase} is given, allowed are {modes}"
        yield Violation(Rule.MODE, scope.refuse("content", problem))
        return
    yield from _check_references(scope)
    yield from _check_support(scope, given)
    yield from _check_values(scope, given)
    yield from _check_draft(scope, given)
    yield from _check_task_type(scope, given)


def _check_references(scope: Scope) -> Iterator[Violation]:
    if scope.mode is not Mode.R2V:
        return
    rules, counts = scope.mode_rules, scope.counts
    for noun, count, count_max in (
        ("images", counts.images, rules.images_max),
        ("videos", counts.videos, rules.videos_max),
        ("audios", counts.audios, rules.audios_max),
    ):
        if count > count_max:
            problem = f"{count} reference {noun} are given, at most {count_max} are allowed"
            yield Violation(Rule.REFERENCES, scope.refuse("content", problem))
    if counts.audios and not (counts.images or counts.videos or rules.audio_alone):
        problem = "reference audio alone is given, it needs a reference image or video beside it"
        yield Violation(Rule.REFERENCES, scope.refuse("content", problem))


def _check_support(scope: Scope, given: Mapping[str, object]) -> Iterator[Violation]:
    for name in given:
        if scope.lacks(name):
            yield Violation(Rule.PARAMETER, scope.refuse_lacking(name))


def _check_values(scope: Scope, given: Mapping[str, object]) -> Iterator[Violation]:
    family, rules = scope.family, scope.mode_rules
    for rule, allowed in (
        (Rule.RESOLUTION, rules.resolutions),
        (Rule.RATIO, (*rules.ratios, *family.command_ratios)),
        (Rule.SERVICE_TIER, family.service_tiers),
        (Rule.OUTPUT_FORMAT, family.output_formats),
    ):
        name = rule.value
        if name in given and not scope.lacks(name) and given[name] not in allowed:
            code = _UNSUPPORTED if rule is Rule.SERVICE_TIER else ""
            yield Violation(rule, scope.refuse_value(name, given[name], code=code))
    duration, frames = given.get("duration"), given.get("frames")
    if isinstance(duration, int) and not (
        scope.lacks("duration") or family.duration.allows(duration)
    ):
        yield Violation(Rule.DURATION, scope.refuse_value("duration", duration))
    if isinstance(frames, int) and family.frames and not family.frames.allows(frames):
        yield Violation(Rule.FRAMES, scope.refuse_value("frames", frames))


def _check_draft(scope: Scope, given: Mapping[str, object]) -> Iterator[Violation]:
    rules = scope.family.draft
    if rules is None or not given.get("draft"):
        return
    if scope.mode is Mode.DRAFT:
        yield Violation(Rule.DRAFT, scope.refuse("draft", "the content names a finished draft"))
        return
    if given.get("resolution") not in rules.resolutions:
        resolution, allowed = given.get("resolution"), f"{join(rules.resolutions)} with draft"
        error = scope.refuse_value("resolution", resolution, allowed=allowed)
        yield Violation(Rule.DRAFT, error)
    for name in sorted(rules.without):
        if given.get(name):
            error = scope.refuse(name, "it is not supported with draft", code=_UNSUPPORTED)
            yield Violation(Rule.DRAFT, error)


def _check_task_type(scope: Scope, given: Mapping[str, object]) -> Iterator[Violation]:
    name = "omni_reference_task_type"
    task_type = given.get(name)
    if not isinstance(task_type, str) or not scope.family.task_types:
        return
    rules = scope.family.task_types.get(task_type)
    if rules is None:
        yield Violation(Rule.TASK_TYPE, scope.refuse_value(name, task_type))
        return
    if task_type != NEUTRAL[name] and scope.mode is not Mode.R2V:
        problem = f"{task_type} is given, it needs reference media"
        yield Violation(Rule.TASK_TYPE, scope.refuse(name, problem, code=_TASK_TYPE))
    elif scope.counts.videos < rules.videos_min:
        problem = f"{task_type} is given, it needs a reference video"
        yield Violation(Rule.TASK_TYPE, scope.refuse(name, problem, code=_TASK_TYPE))
    for field, allowed in (("ratio", rules.ratios), ("duration", rules.durations_s)):
        if allowed and field in given and given[field] not in allowed:
            error = scope.refuse_value(
                field,
                given[field],
                allowed=f"{join(map(str, allowed))} with {name} {task_type}",
                code=_TASK_TYPE,
            )
            yield Violation(Rule.TASK_TYPE, error)


def find_price_violation(
    scope: Scope, given: Mapping[str, object], resolutions: Sequence[str]
) -> InvalidRequest | None:
    """Return what is refused though rules only warn, as no price would cover what may be made.

    That is, whatever the model, a length beyond all bounds. On a model with rules it is also a
    resolution other than `resolutions`, those of all models; `frames` where the model has none, so
    that it or the duration might count; and a draft that isn't as the model's drafts are.
    """
    duration, frames, resolution = (
        given.get("duration"),
        given.get("frames"),
        given.get("resolution"),
    )
    if isinstance(duration, int) and duration != OPEN_ENDED and not 1 <= duration <= DURATION_MAX_S:
        return scope.refuse_value("duration", duration, allowed=READINGS["duration"].allowed)
    if isinstance(frames, int) and not 1 <= frames <= FRAMES_MAX:
        return scope.refuse_value("frames", frames, allowed=READINGS["frames"].allowed)
    if not scope.family.has_rules:
        return None
    if resolution is not None and resolution not in resolutions:
        return scope.refuse_value("resolution", resolution, allowed=join(resolutions))
    if frames is not None and scope.lacks("frames"):
        return scope.refuse_lacking("frames")
    return next((violation.error for violation in _check_draft(scope, given)), None)
