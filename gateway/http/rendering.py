"""From what we know of a task to the bytes that a client reads."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from gateway.domain.tasks import PUBLIC_STATUS, Task
from gateway.status_cache import Entry

_GATEWAYS_OWN: Final = frozenset(
    {
        "id",
        "model",
        "status",
        "error",
        "content",
        "usage",
        "created_at",
        "updated_at",
        "message",
        "request",
        "gateway",
        "draft_task_id",
    }
)
"""Fields with a place of their own in the task object; the upstream's others follow them."""


@dataclass(frozen=True, slots=True)
class Surface:
    """A public wire format: the paths of its task collection, and how it words a success."""

    name: str
    collections: tuple[str, ...]
    render_submitted: Callable[[Task], bytes]
    render_entry: Callable[[Entry], bytes]


def dump_json(value: object) -> bytes:
    """Return compact JSON in UTF-8, also of what orjson refuses.

    That is integers of more than 64 bits, and lone surrogates, which become question marks.
    """
    try:
        # orjson's result keeps its larger buffer alive, so it is copied: cached answers are many.
        return bytes(memoryview(orjson.dumps(value)))
    except TypeError:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        return text.encode(errors="replace")


def task_object(entry: Entry) -> dict[str, object]:
    """Return the contract's task object. The upstream's own ids are never in it."""
    task = entry.task
    shown: dict[str, object] = {
        "id": task.id,
        "model": task.model,
        "status": PUBLIC_STATUS[task.state],
    }
    fields: Mapping[str, object] = task.fields or {}
    if task.error is not None:
        shown["error"] = {"code": task.error.code, "message": task.error.message}
    for name in ("content", "usage"):
        if name in fields:
            shown[name] = fields[name]
    shown["created_at"] = task.created_at_ms // 1000
    shown["updated_at"] = task.updated_at_ms // 1000
    others = {name: value for name, value in fields.items() if name not in _GATEWAYS_OWN}
    draft_task_id = _find_draft(entry.echo)
    if draft_task_id is not None:
        others["draft_task_id"] = draft_task_id
    return shown | others


def body_of(entry: Entry, surface: Surface) -> tuple[bytes, str]:
    """Return the status answer of a surface and its ETag, rendered once a version."""
    ready = entry.bodies.get(surface.name)
    if ready is None:
        body = surface.render_entry(entry)
        ready = (body, f'"{entry.task.version}-{zlib.crc32(body):08x}"')
        entry.bodies[surface.name] = ready
    return ready


def render_page(total: int, objects: Sequence[bytes]) -> bytes:
    """Return a list answer made of ready task objects."""
    return b'{"total":%d,"items":[%b]}' % (total, b",".join(objects))


def _find_draft(echo: str | None) -> str | None:
    """Return the draft that the task builds on, by the id that its client knows."""
    if echo is None or '"draft_task"' not in echo:
        return None
    for item in json.loads(echo)["content"]:
        if item["type"] == "draft_task":
            found: str = item["draft_task"]["id"]
            return found
    return None
