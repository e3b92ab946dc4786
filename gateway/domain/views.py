"""The task object of the contract, as clients read it and callbacks carry it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from gateway.domain.tasks import PUBLIC_STATUS, Task

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


def task_object(task: Task, echo: str | None) -> dict[str, object]:
    """Return the contract's task object. The upstream's own ids are never in it.

    `echo` is the JSON text of the stored request.
    """
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
    draft_task_id = _find_draft(echo)
    if draft_task_id is not None:
        others["draft_task_id"] = draft_task_id
    if task.bill is not None:
        others["gateway"] = asdict(task.bill)
    return shown | others


def _find_draft(echo: str | None) -> str | None:
    """Return the draft that the task builds on, by the id that its client knows."""
    if echo is None or '"draft_task"' not in echo:
        return None
    for item in json.loads(echo)["content"]:
        if item["type"] == "draft_task":
            found: str = item["draft_task"]["id"]
            return found
    return None
