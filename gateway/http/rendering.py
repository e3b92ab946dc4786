"""From what we know of a task to the bytes that a client reads."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from gateway.domain import views
from gateway.domain.tasks import Task
from gateway.status_cache import Entry


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
    """Return the contract's task object of a cached task."""
    return views.task_object(entry.task, entry.echo)


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
