"""The ark surface: the paths and bodies that the vendor's SDKs know."""

from typing import Final

from gateway.domain.tasks import Task
from gateway.http.rendering import Surface, dump_json, task_object
from gateway.status_cache import Entry

COLLECTIONS: Final = ("/api/v3/contents/generations/tasks",)


def render_submitted(task: Task) -> bytes:
    return dump_json({"id": task.id})


def render_entry(entry: Entry) -> bytes:
    return dump_json(task_object(entry))


SURFACE: Final = Surface("ark", COLLECTIONS, render_submitted, render_entry)
