"""From a normalized request to the body of a submit. Shared by the dialects; pure."""

from collections.abc import Mapping, Sequence

from gateway.domain.content import ItemType
from gateway.domain.requests import NormalizedRequest


def render_content(
    request: NormalizedRequest, draft_task_id: str | None, commands: Sequence[str]
) -> list[dict[str, object]]:
    """Return the items as upstreams take them, with `commands` at the end of the last text.

    `draft_task_id` is the upstream's id of the draft, which the client knows under our own.
    """
    items = [
        item.as_json(draft_task_id if item.type is ItemType.DRAFT_TASK else None)
        for item in request.content
    ]
    if commands:
        words = " ".join(commands)
        texts = [item for item in items if item["type"] == ItemType.TEXT]
        if texts:
            texts[-1]["text"] = f"{texts[-1]['text']} {words}"
        else:
            items.insert(0, {"type": "text", "text": words})
    return items


def render_body(
    deployment: str,
    content: Sequence[Mapping[str, object]],
    fields: Mapping[str, object],
    extra: Mapping[str, object],
) -> dict[str, object]:
    """Return the body. Of two fields of one name, the one that we know wins over the unknown.

    Ours stand last: parsers that overlook the case of names take the last one.
    """
    ours = {"model": deployment, "content": content, **fields}
    # The upstream's own callback would tell its id of the task to a stranger.
    foreign = extra.keys() - ours.keys() - {"callback_url"}
    return {name: value for name, value in extra.items() if name in foreign} | ours
