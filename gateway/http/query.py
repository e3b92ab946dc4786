"""What a client asks for beside the path: filters, pages, waiting and conditions."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn
from urllib.parse import parse_qsl

from gateway.domain.refusals import show
from gateway.domain.tasks import PUBLIC_STATUS
from gateway.errors import InvalidRequest
from gateway.services.status import TaskQuery
from gateway.services.submission import Repeat

PAGE_NUM_MAX: Final = 500
PAGE_SIZE_DEFAULT: Final = 20
TASK_IDS_COUNT_MAX: Final = 500
FILTER_CHARS_MAX: Final = 256
STATUSES: Final = tuple(dict.fromkeys(PUBLIC_STATUS.values()))

_FIELDS_COUNT_MAX: Final = 1000
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER: Final = re.compile(r"[0-9]{1,6}\Z", re.ASCII)
_SECONDS: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,3})?\Z", re.ASCII)
_PREFERRED_WAIT: Final = re.compile(
    rb"(?:\A|[,;])\s{0,8}wait\s{0,8}=\s{0,8}\"?([^\s,;\"]{0,32})", re.IGNORECASE
)
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
_IDEMPOTENCY_KEY: Final = re.compile(rb"[!-~]{1,%d}\Z" % IDEMPOTENCY_KEY_CHARS_MAX)
DRY_RUN: Final = "dry_run"
_RETRY_COUNT: Final = re.compile(rb"[0-9]{1,6}\Z")
_FLAGS: Final = {"1": True, "true": True, "0": False, "false": False}
_ETAG: Final = re.compile(rb'"[^"]*"')

Query = Mapping[str, Sequence[str]]


def parse_query(raw: bytes) -> Query:
    """Return the values of each name, in order.

    Raises: InvalidRequest for a query that is not UTF-8, holds control characters or is too long.
    """
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_COUNT_MAX,
        )
    except ValueError:
        _refuse("query", "is not UTF-8 or has too many fields", "percent-encoded UTF-8")
    query: dict[str, list[str]] = {}
    for name, value in pairs:
        if _CONTROL.search(name) or _CONTROL.search(value):
            _refuse("query", "holds a control character", "printable text")
        query.setdefault(name, []).append(value)
    return query


def read_task_query(query: Query, page_size_max: int) -> TaskQuery:
    """Return what is to be listed; names that we do not know are ignored.

    Raises: InvalidRequest, naming the field and what is allowed.
    """
    statuses = tuple(query.get("filter.status", ()))
    for status in statuses:
        if status not in STATUSES:
            _refuse("filter.status", "is not a status", ", ".join(STATUSES))
    task_ids = tuple(query.get("filter.task_ids", ()))
    if len(task_ids) > TASK_IDS_COUNT_MAX:
        _refuse("filter.task_ids", "is given too often", f"{TASK_IDS_COUNT_MAX} times at most")
    if any(len(task_id) > FILTER_CHARS_MAX for task_id in task_ids):
        _refuse("filter.task_ids", "is too long", f"{FILTER_CHARS_MAX} characters at most")
    return TaskQuery(
        page_num=_read_number(query, "page_num", 1, PAGE_NUM_MAX),
        page_size=_read_number(query, "page_size", PAGE_SIZE_DEFAULT, page_size_max),
        statuses=statuses,
        task_ids=task_ids,
        model=_read_text(query, "filter.model"),
        service_tier=_read_text(query, "filter.service_tier"),
    )


def read_wait_s(query: Query, prefer: bytes | None, wait_s_max: float) -> float | None:
    """Return how long the client wants to wait for news, None if it does not say.

    `?wait=` comes before the header `Prefer: wait=`, of which as much is granted as there is (RFC
    7240: a preference that can't be met is no error).

    Raises: InvalidRequest, naming `wait`, for the parameter.
    """
    text = _read_single(query, "wait")
    if text is None:
        found = _PREFERRED_WAIT.search(prefer) if prefer is not None else None
        preferred = found[1].decode("latin-1") if found is not None else ""
        return min(float(preferred), wait_s_max) if _SECONDS.match(preferred) else None
    if not _SECONDS.match(text) or float(text) > wait_s_max:
        _refuse("wait", "is not valid", f"0 to {wait_s_max:g} seconds")
    return float(text)


def is_match(condition: bytes, etag: str) -> bool:
    """Whether an `If-None-Match` value names `etag`, by weak comparison, or any by `*`."""
    wanted = etag.encode()
    return condition == wanted or condition.strip() == b"*" or wanted in _ETAG.findall(condition)


def read_dry_run(query: Query) -> bool:
    """Whether an estimate alone is asked for: `?dry_run=1`.

    Raises: InvalidRequest for whatever else may have been meant by it: a submit that was meant as
    an estimate would cost money.
    """
    for name in query:
        if name != DRY_RUN and _bare(name) == _bare(DRY_RUN):
            _refuse(show(name), "is unknown", DRY_RUN)
    given = query.get(DRY_RUN, ())
    if len(given) > 1 or any(value not in _FLAGS for value in given):
        _refuse(DRY_RUN, "is given twice or with another value", "1, true, 0, false")
    return bool(given) and _FLAGS[given[0]]


def read_repeat(headers: Mapping[bytes, bytes]) -> Repeat:
    """Return what the client says of its request being the same one again.

    Raises: InvalidRequest for an Idempotency-Key that is no key.
    """
    key = headers.get(b"idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.match(key):
        _refuse(
            "Idempotency-Key",
            "is empty, too long or holds other characters",
            f"1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters without spaces",
        )
    count = headers.get(b"x-stainless-retry-count", b"")
    is_retry = _RETRY_COUNT.match(count) is not None and int(count) > 0
    return Repeat(key.decode() if key is not None else None, is_retry)


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _read_number(query: Query, name: str, default: int, largest: int) -> int:
    text = _read_single(query, name)
    if text is None:
        return default
    if not _NUMBER.match(text) or not 1 <= int(text) <= largest:
        _refuse(name, "is not valid", f"1 to {largest}")
    return int(text)


def _read_text(query: Query, name: str) -> str | None:
    text = _read_single(query, name)
    if text is not None and len(text) > FILTER_CHARS_MAX:
        _refuse(name, "is too long", f"{FILTER_CHARS_MAX} characters at most")
    return text or None


def _read_single(query: Query, name: str) -> str | None:
    values = query.get(name, ())
    if len(values) > 1:
        _refuse(name, "is given more than once", "one value")
    return values[0] if values else None


def _refuse(name: str, problem: str, allowed: str) -> NoReturn:
    raise InvalidRequest(
        f"The parameter {name} specified in the request {problem}: allowed is {allowed}.",
        param=name,
    ) from None
