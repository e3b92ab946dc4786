"""A create request as the vendor reads it: strict body fields, weak text commands."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from gateway.sandbox.commands import read_commands
from gateway.sandbox.content import Content, JsonObject, read_content
from gateway.sandbox.errors import VendorError, invalid, not_valid_for
from gateway.sandbox.models import RATIOS, TALL_TWIN, Family, find_family

MODEL_LENGTH_MAX: Final = 200
SAFETY_IDENTIFIER_MAX: Final = 64
CALLBACK_URL_MAX: Final = 2048
SEED_MAX: Final = 2**32 - 1
EXPIRES_S: Final = (3_600, 259_200)
DEFAULT_EXPIRES_S: Final = 172_800
FRAMES: Final = (29, 289)
_TASK_TYPES: Final = ("auto", "reference", "edit", "extend")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid create request. None stands where the model, or the draft it completes, decides."""

    endpoint: str
    model: str
    family: Family
    content: Content
    resolution: str
    ratio: str
    duration_s: int | None
    frames: int | None
    seed: int | None
    service_tier: str
    expires_after_s: int
    priority: int | None
    generate_audio: bool | None
    draft: bool
    tools: tuple[str, ...]
    safety_identifier: str
    output_format: str
    return_last_frame: bool
    callback_url: str


@dataclass(frozen=True, slots=True)
class _Case:
    """What a field's check may look at."""

    family: Family
    model: str
    content: Content

    def refuse(self, param: str) -> VendorError:
        return not_valid_for(param, self.model, self.content.mode)

    def unsupported(self, param: str) -> VendorError:
        return VendorError(
            "InvalidParameter.UnsupportedParameter",
            f"The parameter `{param}` is not supported by model {self.model}",
            param=param,
        )


def parse_body(raw: bytes) -> dict[str, object]:
    """Return the JSON object of a body.

    Raises:
        VendorError: it is no JSON object.
    """
    try:
        body = json.loads(raw.decode("utf-8")) if raw else {}
    except (ValueError, RecursionError):
        raise VendorError(
            "InvalidParameter", "The request body is not valid: it must be JSON"
        ) from None
    if not isinstance(body, dict):
        raise VendorError("InvalidParameter", "The request body is not valid: it must be an object")
    return body


def read_order(
    body: JsonObject,
    *,
    endpoints: Mapping[str, str],
    weak_commands: Literal["ignore", "error"],
) -> Order:
    """Return the order of a create request. Unknown fields are ignored; null means absent.

    Raises:
        VendorError: the first thing that is wrong, as the vendor would say it.
    """
    endpoint, model, family = _read_model(body, endpoints)
    # The names in messages carry no date.
    name = model.removesuffix(f"-{family.date}")
    content = read_content(body.get("content"), family, name)
    case = _Case(family, name, content)
    values = {
        field: _FIELDS[field](body[field], case) for field in _FIELDS if body.get(field) is not None
    }
    if not content.draft_task_id:
        for field, value in read_commands(content.prompt).items():
            if field in values:
                continue
            try:
                values[field] = _read_command(field, value, case)
            except VendorError:
                if weak_commands == "error":
                    raise
    return _settle(endpoint, model, case, values)


def _read_model(body: JsonObject, endpoints: Mapping[str, str]) -> tuple[str, str, Family]:
    endpoint = body.get("model")
    if endpoint is None or endpoint == "":
        raise VendorError(
            "MissingParameter", "The request is missing the `model` parameter", param="model"
        )
    if not isinstance(endpoint, str) or len(endpoint) > MODEL_LENGTH_MAX:
        raise invalid("model", "it must be the id of a model or an endpoint")
    model = endpoints.get(endpoint, endpoint)
    family = find_family(model)
    if family is None:
        raise VendorError("InvalidEndpointOrModel.NotFound", model=endpoint)
    return endpoint, model, family


def _read_command(field: str, value: object, case: _Case) -> object:
    """Check a command's value as its body field's, with the two old ratios added."""
    if field == "ratio" and case.family.era == "1.0":
        if value == TALL_TWIN:
            return value
        if value == "keep_ratio":
            value = "adaptive"
    return _FIELDS[field](value, case)


def _integer(param: str, value: object, lowest: int, highest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid(param, "it must be an integer")
    if not lowest <= value <= highest:
        raise invalid(param, f"it must be from {lowest} to {highest}")
    return value


def _boolean(param: str) -> Callable[[object, _Case], object]:
    def read(value: object, _case: _Case) -> object:
        if not isinstance(value, bool):
            raise invalid(param, "it must be true or false")
        return value

    return read


def _resolution(value: object, case: _Case) -> object:
    if not isinstance(value, str) or value not in case.family.resolutions:
        raise case.refuse("resolution")
    with_references = case.content.mode == "r2v" and case.family.era == "1.0"
    if with_references and value == "1080p":
        raise case.refuse("resolution")
    return value


def _ratio(value: object, case: _Case) -> object:
    if value not in (*RATIOS, "adaptive"):
        raise case.refuse("ratio")
    is_adaptive = value == "adaptive"
    if is_adaptive and case.family.era == "1.0" and case.content.mode != "i2v":
        raise case.refuse("ratio")
    if not is_adaptive and case.family.has_task_types and case.content.mode == "i2v":
        raise case.refuse("ratio")
    return value


def _duration(value: object, case: _Case) -> object:
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid("duration", "it must be an integer")
    family = case.family
    if value == -1 and family.is_open_ended:
        return value
    if not family.duration_min <= value <= family.duration_max:
        raise case.refuse("duration")
    return value


def _frames(value: object, case: _Case) -> object:
    frames = _integer("frames", value, *FRAMES)
    if not case.family.has_frames:
        raise case.unsupported("frames")
    if (frames - 25) % 4:
        raise invalid("frames", "it must be 25 + 4n")
    return frames


def _seed(value: object, _case: _Case) -> object:
    return _integer("seed", value, -1, SEED_MAX)


def _camera_fixed(value: object, case: _Case) -> object:
    if not isinstance(value, bool):
        raise invalid("camera_fixed", "it must be true or false")
    if value and case.family.camera_fixed and case.content.mode == "r2v":
        raise case.refuse("camera_fixed")
    return value


def _any_rate(value: object, _case: _Case) -> object:
    # The vendor takes any number and bills 24.
    if not isinstance(value, int) or isinstance(value, bool):
        raise invalid("framespersecond", "it must be an integer")
    return value


def _service_tier(value: object, case: _Case) -> object:
    if value not in {"default", "flex"}:
        raise invalid("service_tier", "it must be default or flex")
    if value == "flex" and not case.family.has_flex:
        raise case.unsupported("service_tier")
    return value


def _expires(value: object, _case: _Case) -> object:
    return _integer("execution_expires_after", value, *EXPIRES_S)


def _priority(value: object, case: _Case) -> object:
    priority = _integer("priority", value, 0, 9)
    if priority and case.family.era not in {"2.0", "2.5"}:
        raise case.unsupported("priority")
    return priority


def _draft(value: object, case: _Case) -> object:
    if not isinstance(value, bool):
        raise invalid("draft", "it must be true or false")
    if value and not case.family.has_draft:
        raise case.unsupported("draft")
    return value


def _tools(value: object, case: _Case) -> object:
    if not isinstance(value, list) or len(value) > 1:
        raise invalid("tools", "it must be an array of at most one tool")
    if any(not isinstance(tool, dict) or tool.get("type") != "web_search" for tool in value):
        raise invalid("tools", "the type of a tool must be web_search")
    if value and not case.family.has_tools:
        raise case.unsupported("tools")
    return ("web_search",) if value else ()


def _safety_identifier(value: object, _case: _Case) -> object:
    if not isinstance(value, str) or len(value) > SAFETY_IDENTIFIER_MAX:
        raise invalid(
            "safety_identifier", f"it must be a text of at most {SAFETY_IDENTIFIER_MAX} characters"
        )
    return value


def _output_format(value: object, case: _Case) -> object:
    if value not in {"mp4", "mov"}:
        raise invalid("output_format", "it must be mp4 or mov")
    if value == "mov" and not case.family.has_mov:
        raise case.unsupported("output_format")
    return value


def _task_type(value: object, case: _Case) -> object:
    if value not in _TASK_TYPES:
        raise invalid("omni_reference_task_type", f"it must be one of {', '.join(_TASK_TYPES)}")
    if value != "auto" and not case.family.has_task_types:
        raise case.unsupported("omni_reference_task_type")
    return value


def _callback_url(value: object, _case: _Case) -> object:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise invalid("callback_url", "it must be a URL")
    if len(value) > CALLBACK_URL_MAX:
        raise invalid("callback_url", f"it must have at most {CALLBACK_URL_MAX} characters")
    return value


_FIELDS: Final[Mapping[str, Callable[[object, _Case], object]]] = MappingProxyType(
    {
        "callback_url": _callback_url,
        "return_last_frame": _boolean("return_last_frame"),
        "service_tier": _service_tier,
        "execution_expires_after": _expires,
        "priority": _priority,
        "generate_audio": _boolean("generate_audio"),
        "draft": _draft,
        "tools": _tools,
        "safety_identifier": _safety_identifier,
        "resolution": _resolution,
        "ratio": _ratio,
        "duration": _duration,
        "frames": _frames,
        "seed": _seed,
        "camera_fixed": _camera_fixed,
        "watermark": _boolean("watermark"),
        "output_format": _output_format,
        "omni_reference_task_type": _task_type,
        "framespersecond": _any_rate,
    }
)


class _Values:
    """The checked fields, read back with the types that the checks gave them."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def integer(self, field: str) -> int | None:
        value = self._values.get(field)
        return value if isinstance(value, int) else None

    def text(self, field: str, default: str = "") -> str:
        return str(self._values.get(field, default))

    def flag(self, field: str) -> bool | None:
        value = self._values.get(field)
        return value if isinstance(value, bool) else None

    def has(self, *fields: str) -> list[str]:
        return [field for field in fields if field in self._values]


def _settle(endpoint: str, model: str, case: _Case, fields: Mapping[str, object]) -> Order:
    """Check what the fields say together and fill in the defaults."""
    family, content, values = case.family, case.content, _Values(fields)
    _check_together(case, values)
    draft = values.flag("draft") or False
    resolution = values.text("resolution", "480p" if draft else family.resolution_default)
    is_i2v = content.mode == "i2v"
    ratio = "adaptive" if family.era != "1.0" or is_i2v else "16:9"
    seed = values.integer("seed")
    duration_s = values.integer("duration")
    if duration_s is None:
        duration_s = family.duration_default
    tools = fields.get("tools", ())
    return Order(
        endpoint=endpoint,
        model=model,
        family=family,
        content=content,
        resolution=_open_resolution(resolution, case),
        ratio=values.text("ratio", ratio),
        duration_s=None if duration_s == -1 else duration_s,
        frames=values.integer("frames"),
        seed=None if seed == -1 else seed,
        service_tier=values.text("service_tier", "default"),
        expires_after_s=values.integer("execution_expires_after") or DEFAULT_EXPIRES_S,
        priority=values.integer("priority"),
        generate_audio=(values.flag("generate_audio") is not False) if family.has_audio else None,
        draft=draft,
        tools=tools if isinstance(tools, tuple) else (),
        safety_identifier=values.text("safety_identifier"),
        output_format=values.text("output_format", "mp4"),
        return_last_frame=values.flag("return_last_frame") or False,
        callback_url=values.text("callback_url"),
    )


def _open_resolution(resolution: str, case: _Case) -> str:
    """Return the resolution, the second step of a 2.5 draft being 1080p whatever the default."""
    is_second_step = bool(case.content.draft_task_id)
    return "1080p" if is_second_step and case.family.has_task_types else resolution


def _check_together(case: _Case, values: _Values) -> None:
    if values.flag("draft") and values.text("resolution", "480p") != "480p":
        raise invalid("resolution", "a draft needs 480p")
    if values.flag("draft") and values.flag("return_last_frame"):
        raise invalid("return_last_frame", "a draft has no last frame")
    if values.text("service_tier") == "flex" and values.integer("priority"):
        raise invalid("priority", "it cannot be set with service_tier flex")
    if case.content.draft_task_id:
        _check_second_step(case, values)
    _check_task_type(case, values)


def _check_second_step(case: _Case, values: _Values) -> None:
    reused = values.has("ratio", "duration", "frames", "seed", "generate_audio")
    if reused:
        raise invalid(reused[0], "it is taken over from the draft task")
    if case.family.has_task_types and values.text("resolution", "1080p") != "1080p":
        raise invalid("resolution", "a completed draft is 1080p")


def _check_task_type(case: _Case, values: _Values) -> None:
    task_type = values.text("omni_reference_task_type", "auto")
    if task_type not in {"edit", "extend"}:
        return
    problem = ""
    if case.content.count("video") == 0:
        problem = f"{task_type} needs a reference_video"
    elif values.text("ratio", "adaptive") != "adaptive":
        problem = f"{task_type} needs the ratio adaptive"
    elif task_type == "edit" and values.integer("duration") not in {None, -1}:
        problem = "edit needs the duration -1"
    elif task_type == "edit" and case.content.reference_video_s < 4:
        problem = "edit needs a source of 4 to 30 seconds"
    if problem:
        raise invalid(
            "omni_reference_task_type", problem, code="InvalidParameter.TaskTypeConstraint"
        )
