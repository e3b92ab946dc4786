"""What is kept of a request: its stored form, its fingerprint, and how both forget."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Final, cast

from gateway.domain.content import ItemType, Role, inner_key
from gateway.domain.parameters import PARAMETER_NAMES
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import JsonObject

_KEPT_IN_CLEAR: Final = frozenset({"model", *PARAMETER_NAMES}) - {"safety_identifier"}
_WEB: Final = ("http:", "https:")
_DATA: Final = "data:"
_HASHED: Final = re.compile(r"sha256=[0-9a-f]{64}\Z")


def stored_form(request: NormalizedRequest) -> dict[str, object]:
    """Return the JSON that is stored: a body of the same meaning, without any media data."""
    stored: dict[str, object] = {
        **request.extra,
        "model": request.model,
        "content": [item.as_json(item.stored) for item in request.content],
        **request.parameters.as_json(),
    }
    if request.callback_url is not None:
        stored["callback_url"] = request.callback_url
    return stored


def fingerprint(request: NormalizedRequest) -> str:
    """Return the SHA-256, in hex, of all that the request says; data URIs count by their hash.

    The order of fields, and whether a parameter came by body or by command, make no difference.
    """
    return _hash(stored_form(request))


def echo(stored: JsonObject) -> dict[str, object]:
    """Return what a status answer repeats of the request."""
    return {"model": stored["model"], "content": stored["content"]}


def strip_media_queries(stored: JsonObject) -> dict[str, object]:
    """Return the stored form with the media's addresses cut before their query or fragment.

    Signed addresses grant access: their queries are kept as long as the task may need them.
    """

    def strip(item_type: ItemType, value: str) -> str:
        if item_type is ItemType.TEXT or not value.lower().startswith(_WEB):
            return value
        return value.partition("#")[0].partition("?")[0]

    content = [_change_item(item, strip, _keep) for item in _read_items(stored)]
    return {**stored, "content": content}


def hash_texts(stored: JsonObject) -> dict[str, object]:
    """Return the stored form with prompts, addresses and unknown fields as `sha256=HEX`.

    Of a data URI the stored form has the hash already. Hashing again changes nothing.
    """

    def conceal(item_type: ItemType, value: str) -> str:
        is_open = item_type is ItemType.DRAFT_TASK or value.startswith(_DATA)
        return value if is_open or _HASHED.match(value) else f"sha256={_hash_text(value)}"

    content = [_change_item(item, conceal, _conceal_field) for item in _read_items(stored)]
    return {
        name: value if name in _KEPT_IN_CLEAR else _conceal_field(value)
        for name, value in stored.items()
        if name != "content"
    } | {"content": content}


def _read_items(stored: JsonObject) -> list[JsonObject]:
    # `stored_form` has written it.
    return cast("list[JsonObject]", stored["content"])


def _change_item(
    item: JsonObject,
    change: Callable[[ItemType, str], str],
    change_unknown: Callable[[object], object],
) -> JsonObject:
    """Return a stored item with its text, address or id, and its unknown fields, changed."""
    item_type = ItemType(str(item["type"]))
    payload = item[item_type.value]
    changed: object
    if isinstance(payload, Mapping):
        key = inner_key(item_type)
        changed = {
            name: change(item_type, str(value)) if name == key else change_unknown(value)
            for name, value in payload.items()
        }
    else:
        changed = change(item_type, str(payload))
    return {
        name: value if _is_plain(name, value) else change_unknown(value)
        for name, value in item.items()
    } | {item_type.value: changed}


def _is_plain(name: str, value: object) -> bool:
    """Whether an item's field is a word of the contract's own, and no text of a client's."""
    return name == "type" or (name == "role" and value in set(Role))


def _keep(value: object) -> object:
    return value


def _conceal_field(value: object) -> object:
    if isinstance(value, str) and _HASHED.match(value):
        return value
    return f"sha256={_hash(value)}"


def _hash(value: object) -> str:
    return _hash_text(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
