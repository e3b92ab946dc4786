"""Pure reading of answers, shared by the dialects. Nothing an upstream sends makes it raise oddly.

A shape we do not know is no news, never a verdict: the observer asks again.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeGuard

import orjson

from gateway.domain.markers import is_marked_expiry, strip_safety_marker
from gateway.domain.tasks import JsonObject, Observation, TaskError
from gateway.errors import UpstreamAmbiguous, UpstreamUnavailable
from gateway.ids import is_upstream_task_id
from gateway.ports import Submission
from gateway.upstreams.answers import Answer, parse_json, read_request_id
from gateway.upstreams.cleaning import (
    clean_code,
    clean_prompt,
    clean_text,
    hide_ids,
    reveals_internals,
)
from gateway.upstreams.faults import (
    find_error_object,
    note_request_id,
    read_fault,
    submission_fault,
)

_FIELD_BYTES_MAX: Final = 32 * 1024
_UNKNOWN_FIELD_BYTES_MAX: Final = 4 * 1024
_UNKNOWN_FIELDS_MAX: Final = 16
_DEPTH_MAX: Final = 8
_WIDTH_MAX: Final = 256
_NUMBER_MAX: Final = 2**63
_STATUS_CHARS_MAX: Final = 64
_ENVELOPES_MAX: Final = 3

# Numbers, and words that are shown if they are harmless. _READERS knows the other fields.
_KNOWN_FIELDS: Final = frozenset(
    {
        "seed",
        "resolution",
        "ratio",
        "duration",
        "frames",
        "framespersecond",
        "service_tier",
        "priority",
        "generate_audio",
        "draft",
        "output_format",
        "subdivisionlevel",
        "fileformat",
    }
)
_COUNTERS: Final = frozenset({"completion_tokens", "total_tokens"})
_URL_FIELDS: Final = frozenset({"video_url", "last_frame_url", "file_url"})
# The gateway tells these itself, or nobody may know them.
_OWN_FIELDS: Final = frozenset(
    {
        "id",
        "task_id",
        "model",
        "status",
        "created_at",
        "updated_at",
        "draft_task_id",
        "callback_url",
        "message",
        "request",
        "error",
        "failure_reason",
        "fail_reason",
        "gateway",
        "code",
        "data",
        "object",
    }
)
# Of a member at any depth, in written JSON: id, task_id, userId, account.
_ID_NAME: Final = re.compile(
    r'(?:["_-](?i:u{0,2}id)|[a-z]I[dD])s?":|(?i:account)[^"]{0,64}":', re.ASCII
)
_RAW_ID: Final = re.compile(
    rb'"(?:id|task_?id|data)"\s*:\s*(?:"((?:[^"\\]|\\.){1,200})|([0-9-][0-9.eE+-]{0,40}))',
    re.IGNORECASE,
)
# How much of an answer is searched, and how many ids of it are noted, of 200 characters each.
_RAW_IDS_MAX: Final = 4
_RAW_BYTES_MAX: Final = 64 * 1024
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# An error object beside another status is a left-over, or says that there is none.
_UNHAPPY: Final = frozenset({"failed", "expired", "cancelled"})
_NO_NEWS: Final = Observation(status="", fields={})
_NO_REASON: Final = "InternalServiceError"


def read_submission(answer: Answer, *, definite_5xx: bool) -> Submission:
    """Return the submission that an answer to the paid POST confirms: any 2xx with an id in it.

    Raises: UpstreamRejected, UpstreamAccount (a definite no), UpstreamAmbiguous (anything else).
    """
    if not answer.is_success:
        raise submission_fault(answer, definite_5xx=definite_5xx)
    upstream_task_id = _find_submitted(_parse_lenient(answer))
    if upstream_task_id is not None:
        return Submission(upstream_task_id, read_request_id(answer))
    lost = UpstreamAmbiguous(
        f"The upstream answered {answer.status} to a submission, without a task id."
    )
    raw_ids = _find_raw_ids(answer.body)
    if raw_ids:
        lost.add_note(f"upstream answered {answer.status} with id {raw_ids}")
    raise note_request_id(lost, answer)


def read_object(answer: Answer) -> JsonObject:
    """Return the JSON object of an answer to a read; an empty one for any other JSON value.

    Raises: an UpstreamFault for an answer that is no success, or no JSON.
    """
    if not answer.is_success:
        raise read_fault(answer)
    try:
        value = parse_json(answer.body)
    except ValueError as exc:
        raise UpstreamUnavailable("The upstream's answer can't be read.") from exc
    return value if isinstance(value, dict) else {}


def read_items(answer: Answer) -> Iterator[JsonObject]:
    """Return the objects of an answer to a list. Raises as `read_entries` does."""
    entries, _ = read_entries(answer)
    return (entry for entry in entries if isinstance(entry, dict))


def read_entries(answer: Answer) -> tuple[Sequence[object], object]:
    """Return the entries of an answer to a list, whatever they are, and what it calls the total.

    Raises: an UpstreamFault, also for JSON that is no list of tasks: nothing may be concluded from
    a task's absence in it.
    """
    listed = read_object(answer)
    data = listed.get("data")
    inner: JsonObject = data if isinstance(data, dict) else {}
    entries = listed.get("items", inner.get("items"))
    if not isinstance(entries, list):
        raise UpstreamUnavailable("The upstream's answer is no list of tasks.")
    return entries, listed.get("total", inner.get("total"))


def read_task(task: JsonObject, own_ids: Sequence[str] = ()) -> tuple[str, Observation]:
    """Return a task object's id, and what it shows; both are empty for any other object.

    Neither the ids in `task` nor `own_ids` are in what it shows, but for signed addresses.
    """
    found_id = find_task_id([task])
    status = task.get("status")
    if not isinstance(status, str):
        return found_id, _NO_NEWS
    own_ids = [*own_ids, *task_ids([task])]
    status = clean_text(status)[:_STATUS_CHARS_MAX]
    error = _read_task_error(task, own_ids) if status in _UNHAPPY else None
    return found_id, Observation(status, _read_fields(task, own_ids), error)


def find_task_id(layers: Sequence[JsonObject]) -> str:
    """Return the outermost id of a task, or nothing. A number may be that of a row: it is last."""
    found = [value for layer in layers for value in _ids_of(layer)]
    texts = (value for value in found if isinstance(value, str))
    return next(texts, "") or next((str(value) for value in found), "")


def task_ids(layers: Sequence[JsonObject]) -> Sequence[str]:
    """Return every id that task objects give themselves."""
    return [str(value) for layer in layers for value in _ids_of(layer)]


def _parse_lenient(answer: Answer) -> object:
    try:
        return parse_json(answer.body)
    except ValueError:
        return None


def _ids_of(value: JsonObject) -> Iterator[str | int]:
    for name in ("id", "task_id"):
        found = value.get(name)
        if (isinstance(found, str) and found) or _is_natural(found):
            yield found


def _is_natural(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _find_submitted(value: object) -> str | None:
    found = list(_submitted_ids(value))
    ordered = [*(x for x in found if isinstance(x, str)), *(str(x) for x in found)]
    return next((text for text in ordered if is_upstream_task_id(text)), None)


def _submitted_ids(value: object, depth: int = _ENVELOPES_MAX) -> Iterator[str | int]:
    # An answer that holds an error beside an id contradicts itself; it is believed in neither.
    if depth == 0 or not isinstance(value, dict) or find_error_object(value) is not None:
        return
    yield from _ids_of(value)
    data = value.get("data")
    if isinstance(data, str) or _is_natural(data):
        # A word such as "ok" is no id, nor is a count of rows.
        text = str(data)
        if len(text) >= 8 and any(character.isdigit() for character in text):
            yield data
        return
    yield from _submitted_ids(data, depth - 1)


def _find_raw_ids(body: bytes) -> str:
    """Return what looks like ids in any body, JSON or not: all that is left of a paid task."""
    found = _RAW_ID.finditer(body[:_RAW_BYTES_MAX])
    texts = [
        (match[1] or match[2]).decode(errors="replace") for match in islice(found, _RAW_IDS_MAX)
    ]
    return "".join(c if c.isprintable() else " " for c in ", ".join(texts))


def _read_task_error(task: JsonObject, own_ids: Sequence[str]) -> TaskError | None:
    # `failure_reason` is the older name in list items, `fail_reason` the resellers'.
    for name in ("error", "failure_reason", "fail_reason"):
        value = task.get(name)
        if isinstance(value, str) and value.strip():
            return TaskError(_NO_REASON, clean_text(hide_ids(value, own_ids)))
        found = find_error_object({"error": value})
        if found is not None:
            message = clean_text(hide_ids(found.message, own_ids))
            code = clean_code(hide_ids(found.code, own_ids))
            return TaskError(code or _NO_REASON, message or "The upstream gave no reason.")
    return None


def _read_fields(task: JsonObject, own_ids: Sequence[str]) -> JsonObject:
    fields: dict[str, object] = {}
    unknown: dict[str, object] = {}
    for name, value in task.items():
        if value is None or name in _OWN_FIELDS or not is_plain(value):
            continue
        read = _READERS.get(name)
        if read is not None:
            shown = read(value, own_ids)
            if shown is not None and len(orjson.dumps(shown)) <= _FIELD_BYTES_MAX:
                fields[name] = shown
        elif name not in _KNOWN_FIELDS:
            unknown[name] = value
        elif isinstance(value, int | float) or _is_showable(name, value, own_ids):
            fields[name] = value
    return {**fields, **_pick_showable(unknown, own_ids)}


def _read_content(value: object, own_ids: Sequence[str]) -> object:
    if not isinstance(value, dict):
        return None
    # A signed URL is kept whole: it is what the client came for.
    urls = {name: url for name, url in value.items() if name in _URL_FIELDS and is_web_url(url)}
    others = {name: inner for name, inner in value.items() if name not in _URL_FIELDS}
    return {**urls, **_pick_showable(others, own_ids)} or None


def _read_usage(value: object, own_ids: Sequence[str]) -> object:
    if not isinstance(value, dict):
        return None
    usage: dict[str, object] = {
        name: count
        for name, count in value.items()
        if name in _COUNTERS or (name.endswith("_tokens") and _is_showable(name, 0, own_ids))
        if _is_count(count)
    }
    tools = value.get("tool_usage")
    if isinstance(tools, dict):
        counts = {name: count for name, count in tools.items() if _is_count(count)}
        shown = _pick_showable(counts, own_ids)
        usage |= {"tool_usage": shown} if shown else {}
    return usage or None


def _read_tools(value: object, own_ids: Sequence[str]) -> object:
    tools = value if isinstance(value, list) else []
    types = (tool.get("type") for tool in tools if isinstance(tool, dict))
    words = (clean_code(hide_ids(word, own_ids)) for word in types if isinstance(word, str))
    return [{"type": word} for word in words if word] or None


def _read_prompt(value: object, own_ids: Sequence[str]) -> object:
    if not isinstance(value, str) or len(value) > _FIELD_BYTES_MAX:
        return None
    return clean_prompt(hide_ids(value, own_ids))


def _read_own_word(value: object, own_ids: Sequence[str]) -> object:
    # The client's own text, which may well look like an id; so only the task's own is taken out,
    # and what we wrote behind it.
    if not isinstance(value, str):
        return None
    return hide_ids(strip_safety_marker(value), own_ids) or None


def _read_expiry(value: object, own_ids: Sequence[str]) -> object:
    # One of ours is left out: its client expects the upstream's own, which it is not.
    if is_marked_expiry(value):
        return None
    name = "execution_expires_after"
    is_number = isinstance(value, int | float)
    return value if is_number or _is_showable(name, value, own_ids) else None


_READERS: Final[Mapping[str, Callable[[object, Sequence[str]], object]]] = {
    "content": _read_content,
    "usage": _read_usage,
    "tools": _read_tools,
    "revised_prompt": _read_prompt,
    "safety_identifier": _read_own_word,
    "execution_expires_after": _read_expiry,
}


def is_web_url(value: object) -> bool:
    """Whether a value is an address that a browser may be led to."""
    return isinstance(value, str) and value.startswith(("https://", "http://"))


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pick_showable(fields: JsonObject, own_ids: Sequence[str]) -> JsonObject:
    shown = (
        (name, value)
        for name, value in fields.items()
        if value is not None and _is_showable(name, value, own_ids)
    )
    return dict(islice(shown, _UNKNOWN_FIELDS_MAX))


def _is_showable(name: str, value: object, own_ids: Sequence[str]) -> bool:
    if not name.isidentifier() or len(name) > 64:
        return False
    written = orjson.dumps({name: value})
    if len(written) > _UNKNOWN_FIELD_BYTES_MAX:
        return False
    text = written.decode()
    tells = _ID_NAME.search(text) or hide_ids(text, own_ids) != text or reveals_internals(text)
    return not tells


def is_plain(value: object, depth: int = _DEPTH_MAX) -> bool:
    """Whether a JSON value is shallow, narrow, of sane numbers and of text that any store takes."""
    if isinstance(value, str):
        return _CONTROL.search(value) is None
    if isinstance(value, float):
        return abs(value) < _NUMBER_MAX
    if isinstance(value, dict | list):
        if depth == 0 or len(value) > _WIDTH_MAX:
            return False
        members = [*value, *value.values()] if isinstance(value, dict) else value
        return all(is_plain(member, depth - 1) for member in members)
    return value is None or isinstance(value, int)
