"""What a request may cost at most: its quote, made before it is sent, from its normalized form.

The upstream bills `floor(width x height x frames / 1024)` tokens, with 24 frames for each second of
output and of reference video, and one more. Whatever the request leaves open counts at its most:
`adaptive` as the largest frame, a length that the model chooses as the longest, reference video as
all that the model takes. So what is held is what the task can cost, not what it will.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gateway.domain.billing import NO_USAGE, Quote, Usage
from gateway.domain.content import ItemType
from gateway.domain.models import ADAPTIVE, DURATION_MAX_S, OPEN_ENDED, Catalog, DurationRule, Mode
from gateway.domain.money import ceil_div
from gateway.domain.parameters import FRAMES_MAX, FRAMES_PER_SECOND
from gateway.domain.prices import Case, PriceList
from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Event, JsonObject, Observation, event_of

TOKENS_MAX: Final = 2**38
"""The most that a report is believed; the longest and largest video that is sold has 2**30."""

_PIXELS_PER_TOKEN: Final = 1024
_PIXELS_MAX: Final = 3326 * 2494
"""The largest frame of the published tables: what counts where there is no table at all."""
_DRAFT_LEAST_TENTHS: Final = 6
"""Drafts are billed at 0.6 (with audio) or 0.7 of their tokens. The hold does not rely on it."""
_INPUT_VIDEO_S_MIN: Final = 2
_TOOL_CALLS_MAX: Final = 1000


class OpenEnded(StrEnum):
    """What is held of a length that the request leaves to the model."""

    CEILING = "ceiling"
    TYPICAL = "typical"


@dataclass(frozen=True, slots=True)
class DraftFacts:
    """What is known of the draft that a request completes; None is not known."""

    has_input_video: bool | None = None
    has_audio: bool | None = None
    duration_s: int | None = None
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class _Length:
    frames: int
    seconds: int


@dataclass(frozen=True, slots=True)
class _Span:
    """What an open thing is at least, usually and at most."""

    low: _Length
    typical: _Length
    high: _Length


UNKNOWN_DRAFT: Final = DraftFacts()


def quote_request(
    request: NormalizedRequest,
    upstream: str,
    at_ms: int,
    *,
    prices: PriceList,
    catalog: Catalog,
    open_ended: OpenEnded = OpenEnded.CEILING,
    draft: DraftFacts = UNKNOWN_DRAFT,
) -> Quote:
    """Return what the task may use, what of it is held, and the price it would have at `at_ms`.

    `draft` is of the draft that the request completes, if it does: without it the dearest counts.

    Raises: PriceNotFound if the upstream's book has no price for it.
    """
    length = _find_length(request, draft)
    pixels_low, pixels_high = _find_pixels(request, catalog)
    input_low_s, input_high_s = _find_input_s(request, draft)
    tool_calls = request.family.tool_calls_max if request.parameters.tools else 0
    tokens_low = _count_tokens(pixels_low, length.low, input_low_s)
    if request.parameters.draft:
        tokens_low = tokens_low * _DRAFT_LEAST_TENTHS // 10
    high = _use(pixels_high, length.high, input_high_s, tool_calls)
    found = (
        prices.find(_find_case(request, draft, resolution), upstream, at_ms, high)
        for resolution in _find_resolutions(request)
    )
    return Quote(
        low=Usage(tokens_low, length.low.seconds),
        high=high,
        held=high
        if open_ended is OpenEnded.CEILING
        else _use(pixels_high, length.typical, input_high_s, tool_calls),
        price=max(found, key=lambda price: price.charge.amount(high)),
    )


def quote_as_json(quote: Quote) -> dict[str, object]:
    """Return the quote as commands and dry runs tell it."""
    price = quote.price
    bounds = {"low": quote.low, "high": quote.high, "held": quote.held}
    return {
        "tokens": {name: usage.tokens for name, usage in bounds.items()},
        "seconds": {name: usage.seconds for name, usage in bounds.items()},
        "charge_micros": {name: price.charge.amount(usage) for name, usage in bounds.items()},
        "currency": price.charge_currency,
        "price_version": price.version,
    }


def read_draft_facts(stored: JsonObject, fields: JsonObject) -> DraftFacts:
    """Return what a finished draft says about its second step.

    `stored` is the stored form of its request, hashed or not; `fields` are what the upstream
    reported of it, which goes first. Either may be empty: what neither says stays unknown.
    """
    content = stored.get("content")
    types = [
        item.get("type")
        for item in (content if isinstance(content, list) else [])
        if isinstance(item, Mapping)
    ]
    said = {**stored, **fields}
    has_audio = said.get("generate_audio")
    return DraftFacts(
        has_input_video=ItemType.VIDEO.value in types if types else None,
        has_audio=has_audio if isinstance(has_audio, bool) else None,
        duration_s=_read_count(said.get("duration"), DURATION_MAX_S),
        frames=_read_count(said.get("frames"), FRAMES_MAX),
    )


def settled_usage(fields: JsonObject, held: Usage) -> Usage | None:
    """Return what the upstream's report of a success says was used; None if it says no tokens.

    What it leaves out, and what can't be true, counts as it was held; calls of tools as none.
    """
    usage = fields.get("usage")
    if not isinstance(usage, Mapping):
        return None
    tokens = _read_count(usage.get("completion_tokens"), TOKENS_MAX) or _read_count(
        usage.get("total_tokens"), TOKENS_MAX
    )
    if tokens is None:
        return None
    seconds = _read_count(fields.get("duration"), DURATION_MAX_S)
    frames = _read_count(fields.get("frames"), FRAMES_MAX)
    if seconds is None:
        seconds = held.seconds if frames is None else ceil_div(frames, FRAMES_PER_SECOND)
    return Usage(tokens, seconds, tool_calls=_count_tool_calls(usage.get("tool_usage")))


def settles(observation: Observation) -> bool:
    """Whether a look shows all that is settled and kept by it: of a success, video and tokens.

    A list may show less than a single read. What it leaves out would be lost for good.
    """
    if event_of(observation.status) is not Event.SUCCEEDED:
        return True
    content = observation.fields.get("content")
    return bool(content) and settled_usage(observation.fields, NO_USAGE) is not None


def _count_tool_calls(tool_usage: object) -> int:
    if not isinstance(tool_usage, Mapping):
        return 0
    counts = (_read_count(count, _TOOL_CALLS_MAX) or 0 for count in tool_usage.values())
    return min(sum(counts), _TOOL_CALLS_MAX)


def _read_count(value: object, most: int) -> int | None:
    """Return `value` if it is a whole number from 1 to `most`, else None."""
    # In Python a boolean is an int; in a report it is not.
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    return None


def _use(pixels: int, length: _Length, input_s: int, tool_calls: int) -> Usage:
    tokens = _count_tokens(pixels, length, input_s)
    return Usage(tokens, length.seconds, tool_calls=tool_calls)


def _count_tokens(pixels: int, length: _Length, input_s: int) -> int:
    return pixels * (length.frames + FRAMES_PER_SECOND * input_s) // _PIXELS_PER_TOKEN


def _find_case(request: NormalizedRequest, draft: DraftFacts, resolution: str | None) -> Case:
    family, given = request.family, request.parameters
    tier: str | None = given.service_tier or "default"
    if family.has_rules and tier not in family.service_tiers:
        tier = None  # Let pass with a warning: the upstream may not heed it.
    return Case(
        model=request.model,
        family=family.name,
        resolution=resolution,
        has_input_video=_has_input_video(request, draft),
        has_audio=_has_audio(request, draft),
        is_draft=bool(given.draft),
        tier=tier,
    )


def _has_input_video(request: NormalizedRequest, draft: DraftFacts) -> bool | None:
    if request.mode is not Mode.DRAFT:
        return _count_input_videos(request) > 0
    rules = request.family.modes.get(Mode.R2V)
    may_have = not request.family.has_rules or (rules is not None and rules.videos_max > 0)
    return draft.has_input_video if may_have else False


def _has_audio(request: NormalizedRequest, draft: DraftFacts) -> bool | None:
    is_default = True if "generate_audio" in request.family.parameters else None
    if request.mode is Mode.DRAFT:
        return draft.has_audio
    given = request.parameters.generate_audio
    return is_default if given is None else given


def _count_input_videos(request: NormalizedRequest) -> int:
    return sum(item.type is ItemType.VIDEO for item in request.content)


def _find_input_s(request: NormalizedRequest, draft: DraftFacts) -> tuple[int, int]:
    """Return the least and the most seconds of reference video."""
    most = request.family.input_video_s_max
    has_video = _has_input_video(request, draft)
    if has_video is False:
        return 0, 0
    least = _INPUT_VIDEO_S_MIN * _count_input_videos(request)
    return min(least, most), most


def _find_pixels(request: NormalizedRequest, catalog: Catalog) -> tuple[int, int]:
    """Return the least and the most pixels that a frame may have."""
    family = request.family
    rules = family.modes.get(request.mode)
    ratio = ADAPTIVE if request.mode is Mode.DRAFT else request.ratio
    allowed = rules.ratios if rules is not None else family.ratios
    is_heeded = not family.has_rules or ratio in {*allowed, *family.command_ratios}
    bounds: list[int] = []
    for resolution in _find_resolutions(request):
        size = family.frame_size(resolution, ratio) if resolution and is_heeded else None
        if size is None:
            bounds += _bound_pixels(request, catalog, resolution)
            continue
        bounds.append(size[0] * size[1])
        if ratio in family.command_ratios:
            # The upstream may pass over a text command.
            bounds.append(_bound_pixels(request, catalog, resolution)[0])
    return min(bounds), max(bounds)


def _find_resolutions(request: NormalizedRequest) -> Sequence[str | None]:
    """Return the one asked for; with the default, if the upstream may not heed what was."""
    family, asked = request.family, request.resolution
    rules = family.modes.get(request.mode)
    allowed = rules.resolutions if rules is not None else family.resolutions
    if not family.has_rules or asked in allowed:
        return (asked,)
    return (asked, family.resolution_default)


def _bound_pixels(
    request: NormalizedRequest, catalog: Catalog, resolution: str | None
) -> tuple[int, int]:
    """Return the bounds of the family's table; of all families' where it has no entry."""
    families = [request.family, *catalog.families.values()]
    for wanted in (resolution, None):
        for group in (families[:1], families):
            pixels = [
                width * height
                for family in group
                for name, sizes in family.pixels.items()
                if wanted in {None, name}
                for width, height in sizes.values()
            ]
            if pixels:
                return min(pixels), max(pixels)
    return 1, _PIXELS_MAX


def _find_length(request: NormalizedRequest, draft: DraftFacts) -> _Span:
    """Return the bounds of the output's length over every reading that the upstream may have."""
    spans = list(_read_lengths(request, draft))
    return _Span(
        min((span.low for span in spans), key=_frames_of),
        max((span.typical for span in spans), key=_frames_of),
        max((span.high for span in spans), key=_frames_of),
    )


def _read_lengths(request: NormalizedRequest, draft: DraftFacts) -> Iterator[_Span]:
    family, rule = request.family, request.family.duration
    frames, duration_s = request.parameters.frames, request.duration_s
    if request.mode is Mode.DRAFT:
        frames = draft.frames
        duration_s = draft.duration_s or OPEN_ENDED
        if frames is not None:
            duration_s = None
    is_heeded = True
    if frames is not None:
        yield _exactly(_Length(frames, ceil_div(frames, FRAMES_PER_SECOND)))
        is_heeded = not family.has_rules or (
            family.frames is not None and family.frames.allows(frames)
        )
    if duration_s is not None:
        yield _span_of(duration_s, rule)
        is_heeded = is_heeded and (duration_s == OPEN_ENDED or rule.allows(duration_s))
    if not is_heeded:
        # Let pass with a warning: the upstream may take its default instead.
        yield _span_of(rule.default_s, rule)


def _span_of(duration_s: int, rule: DurationRule) -> _Span:
    if duration_s != OPEN_ENDED:
        return _exactly(_seconds(duration_s))
    return _Span(_seconds(rule.min_s), _seconds(rule.typical_s), _seconds(rule.max_s))


def _exactly(length: _Length) -> _Span:
    return _Span(length, length, length)


def _seconds(seconds: int) -> _Length:
    return _Length(FRAMES_PER_SECOND * seconds + 1, seconds)


def _frames_of(length: _Length) -> tuple[int, int]:
    return length.frames, length.seconds
