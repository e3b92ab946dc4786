"""The files behind the signed links: ranges, HEAD, and the refusals of an object store."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from gateway.sandbox.errors import VendorError
from gateway.sandbox.exchange import Exchange
from gateway.sandbox.faults import Point
from gateway.sandbox.media import load_still, make_film, make_picture
from gateway.sandbox.tasks import Spec, Status
from gateway.sandbox.world import World

_RANGE: Final = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_TYPES: Final[Mapping[str, str]] = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "png": "image/png",
}
QUERY_FIELDS_MAX: Final = 20


class _RangeError(Exception):
    """The range begins behind the file's end."""


async def answer_media(world: World, exchange: Exchange, name: str) -> None:
    """Answer a request for a film or its last frame."""
    status, body, headers = 200, b"", {"content-type": "application/xml"}
    try:
        spec, suffix = _find_file(world, exchange, name)
        await exchange.reach(Point.AFTER_HEADERS)
        await exchange.read_body()
        await exchange.reach(Point.BEFORE_CREATE)
        whole = _make_file(spec, suffix)
        await exchange.reach(Point.AFTER_CREATE)
        headers = {"content-type": _TYPES[suffix], "accept-ranges": "bytes"}
        status, body = _cut(whole, exchange.header("range"), headers)
    except VendorError as error:
        status, body = error.status, _xml(error.code, error.message)
    except _RangeError:
        status, body = 416, _xml("InvalidRange", "The requested range is not satisfiable")
    if exchange.method == "HEAD":
        headers["content-length"] = str(len(body))
        body = b""
    await exchange.answer(status, body, headers)


def _find_file(world: World, exchange: Exchange, name: str) -> tuple[Spec, str]:
    if exchange.header("authorization") is not None:
        raise VendorError(
            "InvalidArgumentError", "Only one auth mechanism allowed: the link is signed already"
        )
    try:
        fields = parse_qsl(exchange.query, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        fields = []
    if not world.view.links.is_valid(name, dict(fields), world.clock.now_ms()):
        raise VendorError("AccessDenied", "The link is not valid or has expired")
    task_id, _, suffix = name.rpartition(".")
    task = world.store.find(task_id)
    is_there = task is not None and not task.is_deleted and suffix in _TYPES
    if task is None or not is_there or task.status(world.clock.now_at()) is not Status.SUCCEEDED:
        raise VendorError("NotFound", "The specified key does not exist")
    return task.spec, suffix


def _make_file(spec: Spec, suffix: str) -> bytes:
    size = (spec.width, spec.height)
    if suffix == "png":
        return make_picture(size)
    return make_film(load_still(size), spec.frames, is_mov=suffix == "mov")


def _cut(whole: bytes, wanted: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
    """Return (status, bytes) for a `Range` header; one that is not understood is ignored."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match[0] == "bytes=-":
        return 200, whole
    if match[1]:
        first = int(match[1])
        last = min(int(match[2] or len(whole)), len(whole) - 1)
    else:
        first, last = max(0, len(whole) - int(match[2])), len(whole) - 1
    if match[1] and match[2] and int(match[2]) < first:
        return 200, whole
    if first >= len(whole):
        headers |= {"content-type": "application/xml", "content-range": f"bytes */{len(whole)}"}
        raise _RangeError
    headers["content-range"] = f"bytes {first}-{last}/{len(whole)}"
    return 206, whole[first : last + 1]


def _xml(code: str, message: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
