"""Turns a client's body into the one form that is priced, limited, stored and sent.

    body -> model -> content (commands lifted, media checked, mode found)
         -> parameters (body and commands together) -> the model's rules -> NormalizedRequest

`null` means absent. Unknown fields pass through, bounded. Whatever can't be taken is an
InvalidRequest that names the field, the value and what is allowed.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.domain.commands import Command
from gateway.domain.content import Content, Item, read_content
from gateway.domain.media import check_web_address
from gateway.domain.models import ADAPTIVE, Catalog, Family, Mode
from gateway.domain.names import check_names
from gateway.domain.parameters import KEEP_RATIO, PARAMETER_NAMES, READINGS, Parameters
from gateway.domain.policy import NormalizePolicy, UnknownFields, Validation
from gateway.domain.refusals import describe, refuse, refuse_missing, refuse_unknown, show
from gateway.domain.rules import Rule, Scope, find_price_violation, find_violations
from gateway.domain.tasks import JsonObject
from gateway.errors import InvalidRequest, ModelNotFound

MODEL_CHARS_MAX: Final = 200
MODEL_SETTINGS: Final = "models.endpoints (an endpoint id) or models.files (a family)"

_DATE: Final = re.compile(r"-[0-9]{6}\Z")
_KNOWN_FIELDS: Final = frozenset({"model", "content", "callback_url", *PARAMETER_NAMES})


@dataclass(frozen=True, slots=True)
class RuleWarning:
    """A per-model rule that was violated and let pass."""

    rule: Rule
    message: str


@dataclass(frozen=True, slots=True)
class NormalizedRequest:
    """What is priced, limited, stored and sent, and only that."""

    model: str
    """As the client sent it."""
    family: Family = field(repr=False)
    mode: Mode
    content: tuple[Item, ...]
    parameters: Parameters
    text_commands: tuple[Command, ...]
    """Those of `parameters` that no body field takes: they go upstream inside a text."""
    extra: JsonObject = field(repr=False)
    """Fields of the body that nobody here knows, unchanged."""
    callback_url: str | None = field(repr=False)
    """The gateway's to call, never the upstream's."""
    warnings: tuple[RuleWarning, ...]

    @property
    def draft_task_id(self) -> str | None:
        """The finished draft's id, as the client knows it."""
        return self.content[0].value if self.mode is Mode.DRAFT else None

    @property
    def draft_task_param(self) -> str:
        """Where the client gave that id, such as `content[0].draft_task.id`."""
        return f"{self.content[0].path}.draft_task.id" if self.mode is Mode.DRAFT else ""

    @property
    def resolution(self) -> str | None:
        """The resolution given, or the family's default."""
        allowed = self.family.modes[self.mode].resolutions if self.mode in self.family.modes else ()
        default = self.family.resolution_default
        if default not in allowed and allowed:
            default = allowed[0]
        return self.parameters.resolution or default

    @property
    def ratio(self) -> str:
        """The ratio given, or the mode's default."""
        rules = self.family.modes.get(self.mode)
        return self.parameters.ratio or (rules.ratio_default if rules else ADAPTIVE)

    @property
    def duration_s(self) -> int | None:
        """The duration given, or the family's default; -1 is open; None if frames rule."""
        if self.parameters.frames is not None and self.parameters.duration is None:
            return None
        duration_s = self.parameters.duration
        return self.family.duration.default_s if duration_s is None else duration_s

    def body_parameters(self) -> dict[str, object]:
        """Return the parameters that go upstream as body fields."""
        fields = self.parameters.as_json()
        for command in self.text_commands:
            del fields[command.parameter]
        return fields


def normalize(
    body: Mapping[str, object], catalog: Catalog, policy: NormalizePolicy
) -> NormalizedRequest:
    """Return the one form of `body`.

    Raises InvalidRequest, MissingParameter or ModelNotFound. A large data URI costs a hash: call
    this off the event loop for large bodies.
    """
    check_names((name for name, value in body.items() if value is not None), _KNOWN_FIELDS)
    model = _read_model(body.get("model"))
    family = catalog.find(model)
    if family is None:
        raise _refuse_model(model)
    content = read_content(body.get("content"), policy)
    label = _DATE.sub("", model) if model in family.ids else family.name
    scope = Scope(label, family, content.mode, content.counts, policy.validation)
    given = _settle(_read_parameters(body, content, scope), scope)
    warnings = tuple(_check_rules(scope, given, catalog))
    if "frames" in given and "frames" in family.parameters:
        given.pop("duration", None)  # Upstream, frames wins; so only frames is priced and sent.
    ratio = given.get("ratio")
    text_commands: tuple[Command, ...] = ()
    if isinstance(ratio, str) and ratio in family.command_ratios:
        text_commands = (Command("ratio", ratio, "--ratio"),)
    return NormalizedRequest(
        model=model,
        family=family,
        mode=content.mode,
        content=content.items,
        # The readings have given each value its type.
        parameters=Parameters(**given),  # type: ignore[arg-type]
        text_commands=text_commands,
        extra=_read_extra(body, content.items, policy),
        callback_url=_read_callback_url(body.get("callback_url"), policy),
        warnings=warnings,
    )


def _read_model(value: object) -> str:
    if value is None or value == "":
        raise refuse_missing("model")
    if not isinstance(value, str) or len(value) > MODEL_CHARS_MAX:
        raise refuse("model", f"a text of at most {MODEL_CHARS_MAX} characters is allowed")
    return value


def _refuse_model(model: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model or endpoint {show(model)} does not exist or you do not have access to it: "
        f"it is not configured in this gateway. The setting {MODEL_SETTINGS} adds it.",
        param="model",
    )


def _read_parameters(
    body: Mapping[str, object], content: Content, scope: Scope
) -> dict[str, object]:
    """Return every parameter given, by the body or by a command, once."""
    given: dict[str, object] = {}
    sources: dict[str, str] = {}
    for name in PARAMETER_NAMES:
        if (value := body.get(name)) is not None:
            given[name] = _read_parameter(name, value, scope, spelled="")
            sources[name] = "in the body"
    for command in content.commands:
        name, spelled = command.parameter, command.spelled
        value = _read_parameter(name, command.value, scope, spelled=spelled)
        if given.setdefault(name, value) != value:
            raise refuse(
                name,
                f"{show(given[name])} is given {sources[name]} "
                f"and {show(value)} by the text command {spelled}; give it once",
            )
        sources.setdefault(name, f"by the text command {spelled}")
    return given


def _read_parameter(name: str, value: object, scope: Scope, *, spelled: str) -> object:
    read = READINGS[name].read(value)
    if read is None:
        raise scope.refuse_shape(name, value, spelled=spelled)
    if read == KEEP_RATIO and name == "ratio":
        if not scope.counts.images:
            raise scope.refuse(name, f"{KEEP_RATIO} is given, it needs an image", spelled=spelled)
        return ADAPTIVE
    return read


def _settle(given: dict[str, object], scope: Scope) -> dict[str, object]:
    """Return the parameters without what changes nothing, and with what they imply."""
    family = scope.family
    settled = {
        name: value
        for name, value in given.items()
        if value != () and not scope.means_absence(name, value)
    }
    makes_draft = settled.get("draft") and scope.mode is not Mode.DRAFT
    if makes_draft and family.draft and "resolution" not in settled:
        # A draft has one resolution, and it is not the family's default.
        settled["resolution"] = family.draft.resolutions[0]
    return settled


def _check_rules(
    scope: Scope, given: Mapping[str, object], catalog: Catalog
) -> Iterator[RuleWarning]:
    for violation in find_violations(scope, given):
        if scope.validation is Validation.ENFORCE:
            raise violation.error
        yield RuleWarning(violation.rule, violation.error.message)
    if error := find_price_violation(scope, given, catalog.resolutions):
        raise error


def _read_extra(
    body: Mapping[str, object], items: Sequence[Item], policy: NormalizePolicy
) -> JsonObject:
    extra = {
        name: value
        for name, value in body.items()
        if name not in _KNOWN_FIELDS and value is not None
    }
    if extra and policy.unknown_fields is UnknownFields.REJECT:
        raise refuse_unknown(show(next(iter(extra))))
    unknown: list[JsonObject] = [extra] if extra else []
    for item in items:
        unknown += [fields for fields in (item.extra, item.inner_extra) if fields]
    if unknown:
        _check_unknown_size(unknown, policy)
    return extra


def _check_unknown_size(unknown: Sequence[JsonObject], policy: NormalizePolicy) -> None:
    if sum(map(len, unknown)) > policy.unknown_fields_count_max:
        count_max = policy.unknown_fields_count_max
        raise InvalidRequest(f"the request has more than {count_max} unknown parameters.")
    if (
        len(json.dumps(unknown, ensure_ascii=False).encode(errors="surrogatepass"))
        > policy.unknown_fields_bytes_max
    ):
        bytes_max = policy.unknown_fields_bytes_max
        raise InvalidRequest(f"the request's unknown parameters exceed {bytes_max} bytes.")


def _read_callback_url(value: object, policy: NormalizePolicy) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise refuse("callback_url", f"{describe(value)} is given, a URL is allowed")
    check_web_address(value, "callback_url", policy.url_chars_max)
    return value
