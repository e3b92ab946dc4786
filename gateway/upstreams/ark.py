"""The dialect `ark`: the vendor's own interface, with typed fields in the body."""

from typing import Final

from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import JsonObject
from gateway.upstreams.adapter import Dialect
from gateway.upstreams.reading import read_task
from gateway.upstreams.rendering import render_body, render_content

_TASKS: Final = "/contents/generations/tasks"


def tasks_url(base_url: str) -> str:
    """Return the collection's URL; a base without a path is completed with `/api/v3`."""
    base_url = base_url.rstrip("/").removesuffix(_TASKS)
    has_path = "/" in base_url.partition("://")[2]
    return f"{base_url}{'' if has_path else '/api/v3'}{_TASKS}"


def render_submission(
    request: NormalizedRequest, deployment: str, draft_task_id: str | None
) -> JsonObject:
    """Return the body: typed fields by their full names, unknown fields unchanged.

    A value that no body field takes goes as a command at the end of the prompt.
    """
    commands = [f"{command.spelled} {command.value}" for command in request.text_commands]
    content = render_content(request, draft_task_id, commands)
    return render_body(deployment, content, request.body_parameters(), request.extra)


def unwrap_task(task: JsonObject) -> JsonObject:
    """Return a task object as it is: the vendor wraps none."""
    return task


ARK: Final = Dialect(
    tasks_url=tasks_url,
    render_submission=render_submission,
    read_task=read_task,
    unwrap_task=unwrap_task,
    supports_list=True,
    supports_cancel=True,
)
