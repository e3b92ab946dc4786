"""Media and callback addresses: scheme and length are checked, nothing is ever fetched.

Media given inside the request (data URIs) is sent, never stored: what is kept is its type, its
size and its hash.
"""

import binascii
import hashlib
import re
from enum import StrEnum
from typing import Final

from gateway.domain.policy import NormalizePolicy
from gateway.domain.refusals import refuse

_STEP_CHARS: Final = 1024 * 1024
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15}):")
# Control characters and backslashes are where readers of an address disagree. A space in a path is
# wrong, too, but common, and every fetcher mends it.
_WEB_ADDRESS: Final = re.compile(r"(?i:https?)://([^/?#\\\s]+)(?:[/?#][^\\\x00-\x1f\x7f]*+)?\Z")
_HOST: Final = re.compile(r"[^:@]+(?::[0-9]{1,5})?\Z|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?\Z")
_ASSET: Final = re.compile(r"asset://[A-Za-z0-9][A-Za-z0-9._:-]{0,199}\Z")
_DATA_HEAD: Final = re.compile(r"data:((image|audio|video)/[a-z0-9][a-z0-9.+-]{0,63});base64,")
_LINE_BREAKS: Final = b"\r\n"


class MediaKind(StrEnum):
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


def check_web_address(url: str, param: str, chars_max: int) -> None:
    """Raise InvalidRequest unless `url` is http or https, with a host and without user info."""
    if len(url) > chars_max:
        raise refuse(param, f"the URL has {len(url)} characters, at most {chars_max} are allowed")
    found = _WEB_ADDRESS.match(url)
    if found is None:
        raise refuse(param, "a URL with the scheme http or https and a host is allowed")
    if "@" in found[1]:
        raise refuse(param, "the URL must not hold a user name or password")
    if not _HOST.match(found[1]):
        raise refuse(param, "the URL's host or port is not valid")


def check_media(url: str, kind: MediaKind, param: str, policy: NormalizePolicy) -> str:
    """Return the form in which the address of an image, video or audio is stored and echoed.

    That is `url` itself, but for a data URI `data:<type>;bytes=N;sha256=HEX` of the decoded data.
    Raises InvalidRequest; its message repeats nothing of the address but its scheme.
    """
    if url[:5].lower() == "data:":
        is_image = kind is MediaKind.IMAGE
        bytes_max = policy.image_bytes_max if is_image else policy.audio_bytes_max
        return _check_data(url, kind, param, bytes_max)
    scheme = _SCHEME.match(url)
    match scheme[1].lower() if scheme else "":
        case "http" | "https":
            check_web_address(url, param, policy.url_chars_max)
        case "asset":
            if not _ASSET.match(url):
                raise refuse(param, "an asset is given as asset://<id>")
        case found:
            given = f"the scheme {found} is given" if found else "a URL without a scheme is given"
            raise refuse(param, f"{given}, allowed are {_allowed_schemes(kind)}")
    return url


def _allowed_schemes(kind: MediaKind) -> str:
    # The vendor takes no video inside a request.
    data = "" if kind is MediaKind.VIDEO else f", data:{kind}/<format>;base64,<data>"
    return f"http, https{data} and asset://<id>"


def _check_data(url: str, kind: MediaKind, param: str, bytes_max: int) -> str:
    head = _DATA_HEAD.match(url)
    if head is None or head[2] != kind.value or kind is MediaKind.VIDEO:
        problem = f"a data URI of another form is given, allowed are {_allowed_schemes(kind)}"
        raise refuse(param, problem)
    # Four characters carry three bytes, and lines of 64 or more may be broken by two characters:
    # what is far too long is known before anything is decoded.
    chars_max = (bytes_max + 2) // 3 * 4
    if len(url) - head.end() > chars_max + chars_max // 32 + 2:
        raise refuse(param, f"at most {bytes_max} bytes are allowed")
    try:
        size_bytes, digest = _digest_base64(url, head.end())
    except ValueError:
        raise refuse(param, "the data is not base64") from None
    if size_bytes == 0:
        raise refuse(param, "it holds no data")
    if size_bytes > bytes_max:
        raise refuse(param, f"{size_bytes} bytes are given, at most {bytes_max} are allowed")
    return f"data:{head[1]};bytes={size_bytes};sha256={digest}"


def _digest_base64(text: str, start: int) -> tuple[int, str]:
    """Return size and SHA-256 of what `text` encodes from `start` on, a piece at a time.

    Line breaks are skipped, missing padding is added, as decoders on the way may do.
    Raises ValueError (of which binascii.Error is one) for anything that is not base64.
    """
    padding = text.find("=", start)
    if padding >= 0 and text[padding:].strip("=\r\n"):
        raise ValueError("padding stands before the end")
    digest = hashlib.sha256()
    size_bytes = 0
    rest = b""
    for at in range(start, len(text), _STEP_CHARS):
        piece = rest + text[at : at + _STEP_CHARS].encode("ascii").translate(None, _LINE_BREAKS)
        whole = len(piece) // 4 * 4
        decoded = binascii.a2b_base64(piece[:whole], strict_mode=True)
        digest.update(decoded)
        size_bytes += len(decoded)
        rest = piece[whole:]
    decoded = binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True)
    digest.update(decoded)
    return size_bytes + len(decoded), digest.hexdigest()
