"""Pure reading of answers, shared by the dialects. Nothing an upstream sends makes it raise oddly.

A shape we do not know is no news, never a verdict: the observer asks again.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from gateway.domain.tasks import JsonObject, Observation, TaskError
from gateway.errors import UpstreamAmbiguous, UpstreamUnavailable
from gateway.ids import is_request_id, is_upstream_task_id
from gateway.ports import Submission
from gateway.upstreams.answers import Answer, parse_json
from gateway.upstreams.cleaning import clean_code, clean_text, reveals_internals
from gateway.upstreams.faults import find_error_object, read_fault, submission_fault

_FIELD_BYTES_MAX: Final = 32 * 1024
_UNKNOWN_FIELD_BYTES_MAX: Final = 4 * 1024
_UNKNOWN_FIELDS_MAX: Final = 16
_DEPTH_MAX: Final = 8
_WIDTH_MAX: Final = 256
_NUMBER_MAX: Final = 2**63
_STATUS_CHARS_MAX: Final = 64
_ENVELOPES_MAX: Final = 3

_KNOWN_FIELDS: Final = frozenset(
    {
        "usage",
        "seed",
        "resolution",
        "ratio",
        "duration",
        "frames",
        "framespersecond",
        "service_tier",
        "execution_expires_after",
        "priority",
        "generate_audio",
        "draft",
        "tools",
        "safety_identifier",
        "output_format",
        "revised_prompt",
        "subdivisionlevel",
        "fileformat",
    }
)
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
        "content",
        "code",
        "data",
        "object",
    }
)
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
    upstream_task_id = _find_id(_parse_lenient(answer))
    if upstream_task_id is None:
        raise UpstreamAmbiguous(
            f"The upstream answered {answer.status} to a submission, without a task id."
        )
    return Submission(upstream_task_id, _request_id(answer))


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
    """Return the objects of an answer to a list.

    Raises: an UpstreamFault, also for JSON that is no list of tasks: nothing may be concluded from
    a task's absence in it.
    """
    listed = read_object(answer)
    data = listed.get("data")
    items = listed.get("items", data.get("items") if isinstance(data, Mapping) else None)
    if not isinstance(items, list):
        raise UpstreamUnavailable("The upstream's answer is no list of tasks.")
    return (item for item in items if isinstance(item, dict))


def read_task(task: JsonObject) -> tuple[str, Observation]:
    """Return a task object's id, and what it shows; both are empty for any other object."""
    status = task.get("status")
    if not isinstance(status, str):
        return _text(task, "id"), _NO_NEWS
    status = clean_text(status)[:_STATUS_CHARS_MAX]
    error = _read_task_error(task) if status in _UNHAPPY else None
    return _text(task, "id"), Observation(status, _read_fields(task), error)


def _parse_lenient(answer: Answer) -> object:
    try:
        return parse_json(answer.body)
    except ValueError:
        return None


def _find_id(value: object, depth: int = _ENVELOPES_MAX) -> str | None:
    # An answer that holds an error beside an id contradicts itself; it is believed in neither.
    if depth == 0 or not isinstance(value, dict) or find_error_object(value) is not None:
        return None
    for name in ("id", "task_id"):
        text = value.get(name)
        if isinstance(text, str) and is_upstream_task_id(text):
            return text
    data = value.get("data")
    if isinstance(data, str):
        # A word such as "ok" is no id.
        has_digit = any(character.isdigit() for character in data)
        return data if has_digit and len(data) >= 8 and is_upstream_task_id(data) else None
    return _find_id(data, depth - 1)


def _request_id(answer: Answer) -> str | None:
    text = answer.headers.get("x-request-id", "")
    return text if is_request_id(text) else None


def _text(value: JsonObject, name: str) -> str:
    text = value.get(name)
    return text if isinstance(text, str) else ""


def _read_task_error(task: JsonObject) -> TaskError | None:
    # `failure_reason` is the older name in list items, `fail_reason` the resellers'.
    for name in ("error", "failure_reason", "fail_reason"):
        value = task.get(name)
        if isinstance(value, str) and value.strip():
            return TaskError(_NO_REASON, clean_text(value))
        found = find_error_object({"error": value})
        if found is not None:
            message = clean_text(found.message) or "The upstream gave no reason."
            return TaskError(clean_code(found.code) or _NO_REASON, message)
    return None


def _read_fields(task: JsonObject) -> JsonObject:
    fields: dict[str, object] = {}
    content = _read_content(task.get("content"))
    if content:
        fields["content"] = content
    unknown_count = 0
    for name, value in task.items():
        if value is None or name in _OWN_FIELDS or not is_plain(value):
            continue
        if name in _KNOWN_FIELDS:
            if len(orjson.dumps(value)) <= _FIELD_BYTES_MAX:
                fields[name] = value
        elif unknown_count < _UNKNOWN_FIELDS_MAX and _is_showable(name, value):
            unknown_count += 1
            fields[name] = value
    return fields


def _read_content(content: object) -> JsonObject:
    # A signed URL is kept whole: it is what the client came for.
    if not isinstance(content, dict) or not is_plain(content):
        return {}
    kept = {
        name: value
        for name, value in content.items()
        if value is not None and not (name.endswith("_url") and not is_web_url(value))
    }
    return kept if len(orjson.dumps(kept)) <= _FIELD_BYTES_MAX else {}


def is_web_url(value: object) -> bool:
    """Whether a value is an address that a browser may be led to."""
    return isinstance(value, str) and value.startswith(("https://", "http://"))


def _is_showable(name: str, value: object) -> bool:
    if not name.isidentifier() or len(name) > 64 or name.endswith("_id"):
        return False
    written = orjson.dumps(value)
    return len(written) <= _UNKNOWN_FIELD_BYTES_MAX and not reveals_internals(written.decode())


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
