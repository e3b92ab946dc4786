"""The seedance surface: the documented contract of the resellers, a `message` beside the task."""

import json
from typing import Final

from gateway.domain.tasks import Task
from gateway.http.rendering import Surface, dump_json, task_object
from gateway.status_cache import Entry

COLLECTIONS: Final = ("/seedance/generations", "/v1/seedance/generations")
"""Documented base URLs end with or without `/v1`."""


def open_surface(message: str) -> Surface:
    """Return the surface whose answers carry `message`."""

    def render_submitted(task: Task) -> bytes:
        return dump_json({"id": task.id, "message": message})

    def render_entry(entry: Entry) -> bytes:
        echo = json.loads(entry.echo) if entry.echo is not None else {}
        shown = task_object(entry)
        shown["message"] = message
        shown["request"] = {
            "model": echo.get("model", entry.task.model),
            "content": echo.get("content", []),
        }
        return dump_json(shown)

    return Surface("seedance", COLLECTIONS, render_submitted, render_entry)
