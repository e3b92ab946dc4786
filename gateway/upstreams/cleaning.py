"""Upstreams' words made fit for clients: accounts, ids, addresses and secrets taken out."""

import re
from collections.abc import Iterable
from typing import Final

TEXT_CHARS_MAX: Final = 1000
# More is cut before cleaning, which bounds its cost whatever an upstream sends.
_RAW_CHARS_MAX: Final = 8 * TEXT_CHARS_MAX

_REQUEST_ID: Final = re.compile(
    r" ?\(?\brequest[ _-]?id ?[:=\uff1a] ?[\"']?[\w.-]+[\"']?\)?\.?", re.ASCII | re.IGNORECASE
)
_DATA_URI: Final = re.compile(r"data:[\w/+.;=-]{0,100},[\w+/=%.-]*", re.ASCII | re.IGNORECASE)
# asset:// ids are the client's own; every other URL may be a signed one.
_URL: Final = re.compile(
    r"\b(?!asset:)[a-z][a-z0-9+.-]{0,20}://[^\s\"'<>]*[^\s\"'<>.,;:)\]]", re.ASCII | re.IGNORECASE
)
_HOST: Final = re.compile(
    r"(?<![\w.-])(?:[a-z0-9-]{1,63}\.){1,8}(?:com|cn|net|org|io|ai|app|dev|cloud|internal|local|svc)"
    r"(?![\w-])(?::\d{1,5})?(?:/[^\s\"'<>]*[^\s\"'<>.,;:)\]])?"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]\d)(?::\d{1,5})?",
    re.ASCII | re.IGNORECASE,
)
_SECRET: Final = re.compile(
    r"\bbearer\s+[^\s\"',]+|\b(?:sk|ak|ark)-[\w-]{8,}", re.ASCII | re.IGNORECASE
)
_ID: Final = re.compile(
    r"\bcgt-[\w-]+"
    r"|\bep-[\w-]{4,}"
    r"|\btask_\w{6,}"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b02\d{12}\w+"
    r"|\b[0-9a-f]{24,}\b",
    re.ASCII | re.IGNORECASE,
)
_ACCOUNT: Final = re.compile(
    r"(\baccount(?:[ _]?id)?|\u8d26\u53f7|\u8d26\u6237)([\s:=#(]{0,3})\d{4,}", re.IGNORECASE
)
_LONG_NUMBER: Final = re.compile(r"(?<!\d)\d{10,}")

# In this order: a URL may hold an id, an id may hold a long number.
_CUTS: Final = (
    (_REQUEST_ID, ""),
    (_DATA_URI, "[data]"),
    (_URL, "[URL]"),
    (_SECRET, "[secret]"),
    (_HOST, "[URL]"),
    (_ID, "[id]"),
    (_ACCOUNT, r"\1\2[account]"),
    (_LONG_NUMBER, "[number]"),
)
# A prompt may speak of hosts, and is the client's own; but not of addresses and accounts of ours.
_PROMPT_CUTS: Final = tuple(cut for cut in _CUTS if cut[0] not in {_REQUEST_ID, _DATA_URI, _HOST})
# A shorter one would be found by chance in any text.
_OWN_ID_CHARS_MIN: Final = 5
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}\Z")
_PARAM: Final = re.compile(r"[\w.\[\]-]{0,128}\Z", re.ASCII)


def clean_text(text: str) -> str:
    """Return `text` on one line, at most 1,000 characters, without what clients must not see.

    The upstream's request id goes too: the gateway appends its own.
    """
    printable = "".join(c if c.isprintable() else " " for c in text[:_RAW_CHARS_MAX])
    text = " ".join(printable.split())
    for pattern, replacement in _CUTS:
        text = pattern.sub(replacement, text)
    return text.strip()[:TEXT_CHARS_MAX].rstrip()


def clean_prompt(text: str) -> str:
    """Return a prompt as upstreams rewrite it, its lines and length kept, without internals."""
    for pattern, replacement in _PROMPT_CUTS:
        text = pattern.sub(replacement, text)
    return text


def hide_ids(text: str, ids: Iterable[str]) -> str:
    """Return `text` without `ids`, whatever their shape."""
    for upstream_id in ids:
        if len(upstream_id) >= _OWN_ID_CHARS_MIN:
            text = text.replace(upstream_id, "[id]")
    return text


def reveals_internals(text: str) -> bool:
    """Whether `clean_text` would take anything out of `text` but control characters."""
    return any(pattern.search(text) for pattern, _ in _CUTS)


def clean_code(code: str) -> str:
    """Return an error code or type word as it is, or nothing if it isn't one plain word."""
    return code if _CODE.match(code) and not reveals_internals(code) else ""


def clean_param(param: str) -> str:
    """Return a field's path as it is, or nothing if it isn't one."""
    return param if _PARAM.match(param) and not reveals_internals(param) else ""
