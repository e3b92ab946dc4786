"""The dialect `seedance`: resellers whose parameters are text commands, and their envelopes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from gateway.domain.models import Mode
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import JsonObject, Observation
from gateway.upstreams.adapter import Dialect
from gateway.upstreams.reading import find_task_id, is_web_url, read_task, task_ids
from gateway.upstreams.rendering import render_body, render_content

_TASKS: Final = "/seedance/generations"
_ENVELOPES_MAX: Final = 3

# Body field to text command. Fields without a command go into the body.
_COMMANDS: Final[Mapping[str, str]] = {
    "resolution": "--resolution",
    "ratio": "--ratio",
    "duration": "--duration",
    "frames": "--frames",
    "framespersecond": "--framespersecond",
    "seed": "--seed",
    "camera_fixed": "--camerafixed",
    "watermark": "--watermark",
}

_STATUSES: Final[Mapping[str, str]] = {
    "pending": "queued",
    "submitted": "queued",
    "not_start": "queued",
    "queued": "queued",
    "in_queue": "queued",
    "processing": "running",
    "in_progress": "running",
    "running": "running",
    "success": "succeeded",
    "succeeded": "succeeded",
    "completed": "succeeded",
    "failure": "failed",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "expired": "expired",
}
_ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "expired"})


def tasks_url(base_url: str) -> str:
    """Return the collection's URL; resellers document bases with and without `/v1`."""
    base_url = base_url.rstrip("/").removesuffix(_TASKS).removesuffix("/seedance")
    return base_url + _TASKS


def render_submission(
    request: NormalizedRequest, deployment: str, draft_task_id: str | None
) -> JsonObject:
    """Return the body: commands at the end of the prompt, other fields by their full names.

    A draft stands alone in the content, so there all of them are fields.
    """
    fields = request.parameters.as_json()
    commands = [
        f"{command} {_word(fields.pop(name))}"
        for name, command in _COMMANDS.items()
        if name in fields and request.mode is not Mode.DRAFT
    ]
    content = render_content(request, draft_task_id, commands)
    return render_body(deployment, content, fields, request.extra)


def read_wrapped_task(task: JsonObject, own_ids: Sequence[str] = ()) -> tuple[str, Observation]:
    """Return the id and the state of a task, bare or inside resellers' envelopes.

    The outermost id is the one that the reseller gave us. The innermost object is the vendor's own,
    if the reseller shows it, and knows best; but an end that either of them tells is an end, as
    resellers stop looking and vendors' ends are unknown words to some of them.
    """
    layers = list(_layers(task))
    if not layers:
        return read_task(task, own_ids)
    return read_task(_flatten(layers), [*own_ids, *task_ids(layers)])


def unwrap_task(task: JsonObject) -> JsonObject:
    """Return the one task object that a task, bare or inside resellers' envelopes, comes to."""
    layers = list(_layers(task))
    return _flatten(layers) if layers else task


def _flatten(layers: Sequence[JsonObject]) -> JsonObject:
    inner = layers[-1]
    statuses = [_STATUSES.get(word.lower(), word) for word in (_status(layer) for layer in layers)]
    ends = [status for status in statuses if status in _ENDED]
    return {
        **inner,
        "id": find_task_id(layers),
        "status": ends[-1] if ends else statuses[-1],
        "content": inner.get("content") or _found_content(layers),
        "error": next((layer["error"] for layer in reversed(layers) if layer.get("error")), None),
        "fail_reason": _first_text(layers, ("fail_reason", "failure_reason")),
    }


def _layers(task: JsonObject) -> Iterator[JsonObject]:
    """Yield the task objects in `task`, the outermost first."""
    layer: object = task
    for _ in range(_ENVELOPES_MAX):
        if not isinstance(layer, dict):
            return
        if _status(layer):
            yield layer
        layer = layer.get("data")


def _status(layer: JsonObject) -> str:
    status = layer.get("status")
    return status if isinstance(status, str) else ""


def _first_text(layers: Sequence[JsonObject], names: Sequence[str]) -> str:
    found = (layer.get(name) for layer in layers for name in names)
    return next((text for text in found if isinstance(text, str) and text), "")


def _found_content(layers: Sequence[JsonObject]) -> JsonObject:
    for layer in reversed(layers):
        metadata = layer.get("metadata")
        url_of_metadata = metadata.get("url") if isinstance(metadata, dict) else None
        for url in (layer.get("video_url"), layer.get("result_url"), url_of_metadata):
            if is_web_url(url):
                return {"video_url": url}
    return {}


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


SEEDANCE: Final = Dialect(
    tasks_url=tasks_url,
    render_submission=render_submission,
    read_task=read_wrapped_task,
    unwrap_task=unwrap_task,
    supports_list=False,
    supports_cancel=False,
)
