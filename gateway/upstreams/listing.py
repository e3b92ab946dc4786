"""Pure reading of lists: what an upstream's list tells of tasks that we may have lost.

Observations hide what clients must not see; here are the bare values by which a task is known
again. One that is odd is None, which neither proves nor excludes anything.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.domain.attempts import ListedTask
from gateway.domain.parameters import SAFETY_IDENTIFIER_CHARS_MAX
from gateway.domain.tasks import JsonObject, Observation
from gateway.ids import is_upstream_task_id
from gateway.ports import ListedPage
from gateway.upstreams.answers import Answer
from gateway.upstreams.reading import read_entries

_SEED_MAX: Final = 2**32 - 1
_DURATION_S_MAX: Final = 24 * 3600
_EXPIRY_S_MAX: Final = 30 * 24 * 3600
_TOTAL_MAX: Final = 2**53
_MODEL_CHARS_MAX: Final = 200
_WORD_CHARS_MAX: Final = 32
# A date in milliseconds is beyond it, and is taken for none.
_DATE_S_MAX: Final = 10**11
_STAMP: Final = re.compile(r"cgt-([0-9]{14})-")
# Of ids, on both of the vendor's clouds.
_STAMP_AHEAD: Final = timedelta(hours=8)


def read_page(
    answer: Answer,
    page_size: int,
    read_task: Callable[[JsonObject, Sequence[str]], tuple[str, Observation]],
    unwrap_task: Callable[[JsonObject], JsonObject],
) -> ListedPage:
    """Return the page that an answer to a list holds, of `page_size` tasks at most.

    Entries that are no tasks, and further ones of an id that was listed before, are left out.

    Raises: an UpstreamFault, also for JSON that is no list of tasks.
    """
    entries, total = read_entries(answer)
    items: dict[str, ListedTask] = {}
    for entry in entries[:page_size]:
        if not isinstance(entry, dict):
            continue
        found_id, observation = read_task(entry, ())
        if is_upstream_task_id(found_id) and found_id not in items:
            items[found_id] = read_listed(unwrap_task(entry), found_id, observation)
    return ListedPage(tuple(items.values()), _read_whole(total, 0, _TOTAL_MAX), len(entries))


def read_listed(task: JsonObject, upstream_task_id: str, observation: Observation) -> ListedTask:
    """Return what a bare task object tells of the attempt that it came of."""
    return ListedTask(
        upstream_task_id=upstream_task_id,
        created_at_ms=_read_created_at_ms(task, upstream_task_id),
        model=_read_word(task.get("model"), _MODEL_CHARS_MAX),
        status=observation.status,
        seed=_read_whole(task.get("seed"), 0, _SEED_MAX),
        expires_after_s=_read_whole(task.get("execution_expires_after"), 1, _EXPIRY_S_MAX),
        safety_identifier=_read_word(task.get("safety_identifier"), SAFETY_IDENTIFIER_CHARS_MAX),
        resolution=_read_word(task.get("resolution"), _WORD_CHARS_MAX),
        ratio=_read_word(task.get("ratio"), _WORD_CHARS_MAX),
        duration_s=_read_whole(task.get("duration"), 1, _DURATION_S_MAX),
        observation=observation,
        updated_at_ms=_read_date_ms(task, "updated_at"),
    )


def _read_created_at_ms(task: JsonObject, upstream_task_id: str) -> int | None:
    dated_at_ms = _read_date_ms(task, "created_at")
    if dated_at_ms is not None:
        return dated_at_ms
    match = _STAMP.match(upstream_task_id)
    if match is None:
        return None
    try:
        stamp = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC) - _STAMP_AHEAD
    except (ValueError, OverflowError):
        return None
    created_at_ms = int(stamp.timestamp()) * 1000
    return created_at_ms if created_at_ms > 0 else None


def _read_date_ms(task: JsonObject, name: str) -> int | None:
    at_s = _read_whole(task.get(name), 1, _DATE_S_MAX)
    return None if at_s is None else at_s * 1000


def _read_whole(value: object, least: int, most: int) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least <= value <= most else None


def _read_word(value: object, chars_max: int) -> str | None:
    if not isinstance(value, str) or not value.isprintable():
        return None
    return value if 0 < len(value) <= chars_max else None
