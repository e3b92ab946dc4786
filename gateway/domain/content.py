"""The `content` array: its items, their media and roles, and the mode that they make together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from gateway.domain.commands import Command, find_spread_command, lift_commands
from gateway.domain.media import MediaKind, check_media
from gateway.domain.models import Mode
from gateway.domain.names import check_names
from gateway.domain.policy import NormalizePolicy, UnknownFields
from gateway.domain.refusals import (
    describe,
    join,
    refuse,
    refuse_missing,
    refuse_unknown,
    show,
)
from gateway.domain.rules import MediaCounts
from gateway.domain.tasks import JsonObject

DRAFT_TASK_ID_CHARS_MAX: Final = 200


class ItemType(StrEnum):
    TEXT = "text"
    IMAGE = "image_url"
    VIDEO = "video_url"
    AUDIO = "audio_url"
    DRAFT_TASK = "draft_task"


_ITEM_TYPES: Final[Mapping[str, ItemType]] = {item_type.value: item_type for item_type in ItemType}
_KNOWN_FIELDS: Final = frozenset({"type", "role", *_ITEM_TYPES})


class Role(StrEnum):
    FIRST_FRAME = "first_frame"
    LAST_FRAME = "last_frame"
    REFERENCE_IMAGE = "reference_image"
    REFERENCE_VIDEO = "reference_video"
    REFERENCE_AUDIO = "reference_audio"


@dataclass(frozen=True, slots=True)
class _MediaRules:
    kind: MediaKind
    roles: tuple[Role, ...]


_MEDIA: Final[Mapping[ItemType, _MediaRules]] = {
    ItemType.IMAGE: _MediaRules(
        MediaKind.IMAGE, (Role.FIRST_FRAME, Role.LAST_FRAME, Role.REFERENCE_IMAGE)
    ),
    ItemType.VIDEO: _MediaRules(MediaKind.VIDEO, (Role.REFERENCE_VIDEO,)),
    ItemType.AUDIO: _MediaRules(MediaKind.AUDIO, (Role.REFERENCE_AUDIO,)),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the content, without its text commands.

    `role` is as the client gave it: a single image without one is a first frame. `extra` and
    `inner_extra` are fields that nobody here knows, beside and inside the payload.
    """

    type: ItemType
    value: str = field(repr=False)
    """The prompt, the address of the media, or the id of the draft task as the client knows it."""
    stored: str = field(repr=False)
    """The same as it is stored and echoed: of a data URI only type, size and hash."""
    role: Role | None = None
    extra: JsonObject = field(default_factory=dict, repr=False)
    inner_extra: JsonObject = field(default_factory=dict, repr=False)
    path: str = field(default="", repr=False, compare=False)
    """Where the client wrote it, such as `content[0]`."""

    def as_json(self, value: str | None = None) -> dict[str, object]:
        """Return the item in the form of the body, with `value` in place of its own.

        Known fields come last: to a reader that takes two names for one, they are what counts.
        """
        value = self.value if value is None else value
        payload: object = value
        if self.type is not ItemType.TEXT:
            payload = {**self.inner_extra, inner_key(self.type): value}
        item: dict[str, object] = {**self.extra, "type": self.type.value, self.type.value: payload}
        if self.role is not None:
            item["role"] = self.role.value
        return item


@dataclass(frozen=True, slots=True)
class Content:
    """What the array holds. `commands` are those of all its texts, in their order."""

    items: tuple[Item, ...]
    commands: tuple[Command, ...]
    mode: Mode
    counts: MediaCounts


def inner_key(item_type: ItemType) -> str:
    """Return the payload's one known field."""
    return "id" if item_type is ItemType.DRAFT_TASK else "url"


def count_chars(value: object) -> int:
    """Return how many characters of text a body's content holds, whatever its shape."""
    count = 0
    for item in value if isinstance(value, list) else ():
        payloads = item.values() if isinstance(item, Mapping) else ()
        for payload in payloads:
            inner = payload.values() if isinstance(payload, Mapping) else (payload,)
            count += sum(len(text) for text in inner if isinstance(text, str))
    return count


def read_content(value: object, policy: NormalizePolicy) -> Content:
    """Return the content of a request. Raises InvalidRequest or MissingParameter."""
    if value is None or value == []:
        raise refuse_missing("content", "an array of at least one item")
    if not isinstance(value, list):
        raise refuse("content", f"{describe(value)} is given, an array of items is allowed")
    if len(value) > policy.content_items_max:
        problem = f"{len(value)} items are given, at most {policy.content_items_max} are allowed"
        raise refuse("content", problem)
    items = [_read_item(raw, f"content[{index}]", policy) for index, raw in enumerate(value)]
    if sum(len(item.value) for item in items if item.type is ItemType.TEXT) > policy.text_chars_max:
        problem = f"its texts have more than the {policy.text_chars_max} characters allowed"
        raise refuse("content", problem)
    commands: list[Command] = []
    kept: list[Item] = []
    for item in items:
        if item.type is not ItemType.TEXT:
            kept.append(item)
            continue
        lifted = lift_commands(item.value)
        commands += lifted.commands
        if lifted.prompt.strip():  # A text of commands alone has said all that it had to say.
            prompt = lifted.prompt
            kept.append(replace(item, value=prompt, stored=prompt) if lifted.commands else item)
    if not kept:
        lacking = "a text or media beside the commands"
        raise refuse_missing(
            "content", lacking if commands else "a text that is not blank, or media"
        )
    _check_texts_together(kept)
    return Content(tuple(kept), tuple(commands), _find_mode(kept), _count_media(kept))


def _check_texts_together(items: Sequence[Item]) -> None:
    prompts = [item.value for item in items if item.type is ItemType.TEXT]
    command = find_spread_command(prompts) if len(prompts) > 1 else None
    if command is not None:
        problem = f"the text command {command.spelled} is spread over several texts"
        raise refuse("content", f"{problem}; write it inside one text")


def _read_item(raw: object, path: str, policy: NormalizePolicy) -> Item:
    if not isinstance(raw, Mapping):
        raise refuse(path, f"{describe(raw)} is given, an object with a type is allowed")
    given = {name: value for name, value in raw.items() if value is not None}
    check_names(given, _KNOWN_FIELDS, path)
    item_type = _read_type(given.pop("type", None), f"{path}.type")
    path_of_payload = f"{path}.{item_type}"
    payload = given.pop(item_type, None)
    if payload is None:
        raise refuse_missing(path_of_payload)
    for other in sorted(_ITEM_TYPES.keys() & given.keys()):
        raise refuse(f"{path}.{other}", f"it can't stand in an item of the type {item_type}")
    rules = _MEDIA.get(item_type)
    role = _read_role(given.pop("role", None), rules.roles, f"{path}.role") if rules else None
    _check_unknown(given, path, policy)
    if item_type is ItemType.TEXT:
        if not isinstance(payload, str):
            raise refuse(path_of_payload, f"{describe(payload)} is given, a text is allowed")
        return Item(item_type, payload, payload, extra=given, path=path)
    value, inner_extra = _read_payload(payload, inner_key(item_type), path_of_payload, policy)
    stored = value
    if rules:
        stored = check_media(value, rules.kind, path_of_payload, policy)
    elif len(value) > DRAFT_TASK_ID_CHARS_MAX:
        problem = f"at most {DRAFT_TASK_ID_CHARS_MAX} characters are allowed"
        raise refuse(f"{path_of_payload}.id", problem)
    return Item(item_type, value, stored, role, given, inner_extra, path)


def _read_type(value: object, path: str) -> ItemType:
    if value is None:
        raise refuse_missing(path)
    item_type = _ITEM_TYPES.get(value) if isinstance(value, str) else None
    if item_type is None:
        raise refuse(path, f"{show(value)} is given, allowed are {join(ItemType)}")
    return item_type


def _read_role(value: object, allowed: Sequence[Role], path: str) -> Role | None:
    if value is None:
        return None
    for role in allowed:
        if value == role.value:
            return role
    raise refuse(path, f"{show(value)} is given, allowed are {join(allowed)}")


def _read_payload(
    payload: object, key: str, path: str, policy: NormalizePolicy
) -> tuple[str, JsonObject]:
    """Return the payload's one known field, and the unknown ones."""
    if not isinstance(payload, Mapping):
        raise refuse(path, f"{describe(payload)} is given, an object with {key} is allowed")
    given = {name: value for name, value in payload.items() if value is not None}
    check_names(given, (key,), path)
    value = given.pop(key, None)
    if value is None or value == "":
        raise refuse_missing(f"{path}.{key}")
    if not isinstance(value, str):
        raise refuse(f"{path}.{key}", f"{describe(value)} is given, a text is allowed")
    _check_unknown(given, path, policy)
    return value, given


def _check_unknown(fields: JsonObject, path: str, policy: NormalizePolicy) -> None:
    if fields and policy.unknown_fields is UnknownFields.REJECT:
        raise refuse_unknown(f"{path}.{show(next(iter(fields)))}")


def _find_mode(items: Sequence[Item]) -> Mode:
    """Return what the items are for; refuse what can't go together, whatever the model."""
    if any(item.type is ItemType.DRAFT_TASK for item in items):
        if len(items) > 1:
            raise refuse("content", "draft_task cannot be mixed with other content")
        return Mode.DRAFT
    media_count = sum(item.type is not ItemType.TEXT for item in items)
    roles = [item.role for item in items if item.type is ItemType.IMAGE]
    if len(roles) > 1 and None in roles:
        raise refuse("content", "role must be specified for image contents")
    firsts = roles.count(Role.FIRST_FRAME) + roles.count(None)
    lasts = roles.count(Role.LAST_FRAME)
    for noun, count in (("first", firsts), ("last", lasts)):
        if count > 1:
            problem = f"expected at most one {noun} frame image content but got {count}"
            raise refuse("content", problem)
    if media_count > firsts + lasts:
        if firsts or lasts:
            problem = "first/last frame content cannot be mixed with reference media content"
            raise refuse("content", problem)
        return Mode.R2V
    if lasts:
        if not firsts:
            raise refuse("content", "last frame image content needs a first frame beside it")
        return Mode.FIRST_LAST
    return Mode.I2V if firsts else Mode.T2V


def _count_media(items: Sequence[Item]) -> MediaCounts:
    types = [item.type for item in items]
    return MediaCounts(
        images=types.count(ItemType.IMAGE),
        videos=types.count(ItemType.VIDEO),
        audios=types.count(ItemType.AUDIO),
    )
