"""The `content` array: its items, their roles, and what the vendor checks about media."""

import base64
import binascii
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from gateway.sandbox.draws import hash_text
from gateway.sandbox.errors import VendorError, invalid
from gateway.sandbox.models import Family

ITEMS_MAX: Final = 100
URL_LENGTH_MAX: Final = 8192
IMAGE_BYTES_MAX: Final = 30 * 1024 * 1024
AUDIO_BYTES_MAX: Final = 15 * 1024 * 1024
SIDE_MIN: Final = 300
SIDE_MAX: Final = 6000
REFERENCE_TOLERANCE_S: Final = 0.2
DEFAULT_REFERENCE_S: Final = 5

_IMAGE_FORMATS: Final = frozenset({"jpeg", "jpg", "png", "webp", "bmp", "tiff", "gif"})
_APPLE_FORMATS: Final = frozenset({"heic", "heif"})
_AUDIO_FORMATS: Final = frozenset({"wav", "mp3", "mpeg", "x-wav"})
_DATA_URI: Final = re.compile(r"data:(image|audio)/([a-z0-9.+-]+);base64,", re.ASCII)
_ASSET: Final = re.compile(r"asset://([A-Za-z0-9_-]{1,200})")
_IMAGE_ROLES: Final = ("first_frame", "last_frame", "reference_image")

JsonObject = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Media:
    """One image, video or audio item. `path` is where it stands in the request."""

    kind: str
    url: str
    role: str
    path: str

    @property
    def is_fetched(self) -> bool:
        return self.url.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Content:
    """The array as understood. `mode` is the vendor's word: t2v, i2v or r2v."""

    texts: tuple[str, ...]
    media: tuple[Media, ...]
    draft_task_id: str
    mode: str
    reference_video_s: int

    @property
    def prompt(self) -> str:
        return "\n".join(self.texts)

    @property
    def fetched_count(self) -> int:
        return sum(item.is_fetched for item in self.media)

    def count(self, kind: str) -> int:
        return sum(item.kind == kind for item in self.media)


def read_content(value: object, family: Family, model: str) -> Content:
    """Return the content of a create request for `family`, `model` being its name in messages.

    Raises:
        VendorError: in the vendor's words, naming the item.
    """
    if value is None:
        raise VendorError("MissingParameter", param="content")
    if not isinstance(value, list) or not value or len(value) > ITEMS_MAX:
        raise invalid("content", f"it must be an array of 1 to {ITEMS_MAX} items")
    texts: list[str] = []
    media: list[Media] = []
    drafts: list[str] = []
    for index, item in enumerate(value):
        path = f"content[{index}]"
        if not isinstance(item, dict):
            raise invalid(path, "it must be an object")
        match item.get("type"):
            case "text":
                texts.append(_text(item, path))
            case "image_url" | "video_url" | "audio_url":
                media.append(_media(item, path, family))
            case "draft_task":
                drafts.append(_draft(item, path))
            case _:
                raise invalid(f"{path}.type", "it must be text, image_url, video_url or audio_url")
    if drafts:
        if len(value) > 1 or not family.has_draft:
            raise invalid("content", "draft_task cannot be mixed with others")
        return Content((), (), drafts[0], "t2v", 0)
    return _arrange(texts, media, family, model)


def _text(item: JsonObject, path: str) -> str:
    text = item.get("text")
    if not isinstance(text, str) or not text:
        raise invalid(f"{path}.text", "it must be a text that is not empty")
    return text


def _draft(item: JsonObject, path: str) -> str:
    draft = item.get("draft_task")
    draft_id = draft.get("id") if isinstance(draft, dict) else None
    if not isinstance(draft_id, str) or not draft_id:
        raise invalid(f"{path}.draft_task", "it must name the draft task by its id")
    return draft_id


def _media(item: JsonObject, path: str, family: Family) -> Media:
    name = str(item["type"])
    kind = name.removesuffix("_url")
    where = f"{path}.{name}"
    holder = item.get(name)
    if not isinstance(holder, dict):
        raise invalid(where, "it must be an object with a url")
    url = holder.get("url")
    if not isinstance(url, str):
        raise invalid(where, "its url must be a text")
    role = item.get("role")
    if role is None:
        role = "" if kind == "image" else f"reference_{kind}"
    allowed = ("", *_IMAGE_ROLES) if kind == "image" else (f"reference_{kind}",)
    if role not in allowed:
        raise invalid(f"{path}.role", f"it must be one of {', '.join(filter(None, allowed))}")
    _check_url(url, kind, where, family)
    return Media(kind, url, str(role), where)


def _check_url(url: str, kind: str, where: str, family: Family) -> None:
    if not url.strip():
        raise VendorError("InvalidImageURL.EmptyURL", param=where)
    if url.startswith("data:") and kind != "video":
        _check_data_uri(url, kind, where, family)
    elif url.startswith("asset://"):
        asset = _ASSET.fullmatch(url)
        if asset is None:
            raise invalid(where, "it must be asset://<asset id>")
        if "missing" in asset[1]:
            raise VendorError(
                "InvalidParameter", f"the specified asset {asset[1]} is not found", param=where
            )
    elif not _is_web_url(url):
        code = "InvalidImageURL.InvalidFormat" if kind == "image" else "InvalidParameter"
        raise invalid(where, "the url must begin with http://, https:// or asset://", code=code)


def _is_web_url(url: str) -> bool:
    if len(url) > URL_LENGTH_MAX:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _check_data_uri(url: str, kind: str, where: str, family: Family) -> None:
    start = _DATA_URI.match(url)
    formats = _AUDIO_FORMATS if kind == "audio" else _IMAGE_FORMATS
    if kind == "image" and family.era != "1.0":
        formats |= _APPLE_FORMATS
    if start is None or start[1] != kind or start[2] not in formats:
        raise invalid(
            where,
            f"a data url must be data:{kind}/<format in lower case>;base64,<data>",
            code="InvalidImageURL.InvalidFormat" if kind == "image" else "InvalidParameter",
        )
    size_bytes = (len(url) - start.end()) * 3 // 4
    if size_bytes > (AUDIO_BYTES_MAX if kind == "audio" else IMAGE_BYTES_MAX):
        raise invalid(where, "the file is too large")
    try:
        # Type and size stand in the first bytes; the rest is not worth the time of decoding it.
        head = base64.b64decode(url[start.end() : start.end() + 4096], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(where, "the data is not base64") from None
    if kind == "image":
        _check_picture(head, where)


def _check_picture(head: bytes, where: str) -> None:
    """Refuse a PNG whose sides or shape the vendor refuses; other formats pass unread."""
    if not head.startswith(b"\x89PNG\r\n\x1a\n") or len(head) < 24:
        return
    width, height = struct.unpack_from(">II", head, 16)
    if not (SIDE_MIN <= width <= SIDE_MAX and SIDE_MIN <= height <= SIDE_MAX):
        raise invalid(where, f"the sides of an image must be {SIDE_MIN} to {SIDE_MAX} px")
    if not 0.4 <= width / height <= 2.5:
        raise invalid(where, "the aspect ratio of an image must be 0.4 to 2.5")


def _arrange(texts: Sequence[str], media: Sequence[Media], family: Family, model: str) -> Content:
    """Judge how the items go together and name the mode."""
    images = [item for item in media if item.kind == "image"]
    videos = [item for item in media if item.kind == "video"]
    audios = [item for item in media if item.kind == "audio"]
    references = [item for item in images if item.role == "reference_image"]
    frames = [item for item in images if item.role != "reference_image"]
    if len(images) > 1 and not all(item.role for item in images):
        raise VendorError(
            "InvalidParameter",
            "The parameter `content` specified in the request is not valid:"
            " role must be specified for image contents.",
            param="content",
        )
    _check_frames(frames, family, model)
    if frames and (references or videos or audios):
        raise invalid(
            "content", "first/last frame content cannot be mixed with reference media content"
        )
    if references and not family.reference_images:
        raise invalid("content", f"reference images are not supported by model {model}")
    _check_references(videos, audios, references, family, model)
    mode = "r2v" if references or videos or audios else "i2v" if frames else "t2v"
    if mode == "t2v" and (not texts or not family.text):
        raise invalid("content", f"model {model} needs {'a text' if family.text else 'an image'}")
    seconds = _reference_seconds(videos, family, model)
    return Content(tuple(texts), tuple(media), "", mode, seconds)


def _check_frames(frames: Sequence[Media], family: Family, model: str) -> None:
    if frames and not family.first_frame:
        raise invalid("content", f"image content is not supported by model {model} in t2v")
    lasts = sum(item.role == "last_frame" for item in frames)
    firsts = len(frames) - lasts
    for count, name in ((firsts, "first"), (lasts, "last")):
        if count > 1:
            raise invalid(
                "content", f"expected at most one {name} frame image content but got {count}"
            )
    if lasts and not firsts:
        raise invalid("content", "a last frame needs a first frame")
    if lasts and not family.last_frame:
        raise invalid("content", f"a last frame is not supported by model {model}")


def _check_references(
    videos: Sequence[Media],
    audios: Sequence[Media],
    references: Sequence[Media],
    family: Family,
    model: str,
) -> None:
    for items, limit, name in (
        (videos, family.reference_videos_max, "video"),
        (audios, family.reference_audios_max, "audio"),
    ):
        if len(items) > limit:
            raise invalid(
                "content", f"at most {limit} {name} contents are supported by model {model}"
            )
    if audios and not (videos or references or family.lone_audio):
        raise invalid("content", "audio content needs an image or a video beside it")


def _reference_seconds(videos: Sequence[Media], family: Family, model: str) -> int:
    """Return the seconds of all reference videos: what `?seconds=N` in each URL claims, else 5."""
    total = 0
    limit_s = family.reference_s_max + REFERENCE_TOLERANCE_S
    for item in videos:
        claimed = parse_qs(urlsplit(item.url).query).get("seconds", [""])[0]
        seconds = int(claimed) if claimed.isascii() and claimed.isdecimal() else DEFAULT_REFERENCE_S
        total += seconds
        if not 2 <= seconds <= limit_s or total > limit_s:
            raise VendorError(
                "InvalidParameter",
                f"`{item.path.partition('.')[0]}`: video duration (seconds) {seconds} must be"
                f" ≥ 2 and in all ≤ {limit_s} for model {model} in r2v",
                param=item.path,
            )
    return total


def shorten_for_echo(value: object, text_max: int = 20_000) -> object:
    """Return content as a reseller echoes it, with inline media cut to their hash."""
    if isinstance(value, str):
        if value.startswith("data:"):
            return f"{value[:40]}...sha256={hash_text(value)}"
        return value[:text_max]
    if isinstance(value, dict):
        return {str(key): shorten_for_echo(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten_for_echo(item) for item in value[:ITEMS_MAX]]
    return value
