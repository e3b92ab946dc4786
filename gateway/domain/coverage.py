"""Which cases a family allows, and which of them no price covers: told in as few words as can be.

A case without a price is refused when it is asked for. Whoever sets the gateway up learns of it
before that.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Final

from gateway.domain.billing import Usage
from gateway.domain.models import Family, Mode
from gateway.domain.prices import Case, Conditions, PriceList
from gateway.errors import PriceNotFound

_BOTH: Final = (False, True)
_ONE_OF_EACH: Final = Usage(tokens=1, seconds=1)
# In the order in which conditions that say nothing are left out: what people think of first stays.
_WITHOUT_ONE: Final = (
    {"tier": None},
    {"is_draft": None},
    {"has_audio": None},
    {"has_input_video": None},
    {"resolutions": ()},
)


def list_cases(family: Family) -> Sequence[Case]:
    """Return every case that the family's rules allow a request to be, each once."""
    return list(dict.fromkeys(_allow_cases(family)))


def find_gaps(family: Family, prices: PriceList, upstream: str, at_ms: int) -> Sequence[Conditions]:
    """Return gaps that hold all allowed cases without a price at `at_ms`, and no others."""
    allowed = list_cases(family)
    unpriced = {case for case in allowed if not _has_price(prices, case, upstream, at_ms)}
    priced = [case for case in allowed if case not in unpriced]
    found: list[Conditions] = []
    for case in allowed:
        if case in unpriced and not any(gap.matches(case) for gap in found):
            found.append(_widen(case, priced))
    return _join_resolutions(found)


def _allow_cases(family: Family) -> Iterator[Case]:
    has_choice = "generate_audio" in family.parameters or not family.has_rules
    audio: tuple[bool | None, ...] = _BOTH if has_choice else (None,)
    for resolutions, videos, is_draft in _list_outputs(family):
        for resolution, has_input_video, has_audio, tier in product(
            resolutions, videos, audio, family.service_tiers
        ):
            name = family.name
            yield Case(name, name, resolution, has_input_video, has_audio, is_draft, tier)


def _list_outputs(family: Family) -> Iterator[tuple[Sequence[str | None], Sequence[bool], bool]]:
    """Give resolutions, whether there may be input video, and whether the output is a draft."""
    if not family.has_rules:
        yield family.resolutions or (None,), _BOTH, False
    takes_videos = any(rules.videos_max > 0 for rules in family.modes.values())
    for mode, rules in family.modes.items():
        # What completes a draft has the input that the draft had.
        may_have = takes_videos if mode is Mode.DRAFT else rules.videos_max > 0
        videos = _BOTH if may_have else (False,)
        yield rules.resolutions, videos, False
        if family.draft is not None and mode is not Mode.DRAFT:
            yield (
                [each for each in family.draft.resolutions if each in rules.resolutions],
                videos,
                True,
            )


def _has_price(prices: PriceList, case: Case, upstream: str, at_ms: int) -> bool:
    try:
        prices.find(case, upstream, at_ms, _ONE_OF_EACH)
    except PriceNotFound:
        return False
    return True


def _widen(case: Case, priced: Collection[Case]) -> Conditions:
    """Return the gap of an unpriced case, without any condition that keeps no priced one out."""
    resolutions = (case.resolution,) if case.resolution is not None else ()
    gap = Conditions(resolutions, case.has_input_video, case.has_audio, case.is_draft, case.tier)
    for change in _WITHOUT_ONE:
        wider = replace(gap, **change)
        if not any(wider.matches(each) for each in priced):
            gap = wider
    return gap


def _join_resolutions(gaps: Sequence[Conditions]) -> Sequence[Conditions]:
    """Return one gap for those that differ in their resolution alone."""
    joined: dict[Conditions, tuple[str, ...]] = {}
    for gap in gaps:
        others = replace(gap, resolutions=())
        joined[others] = (*joined.get(others, ()), *gap.resolutions)
    return [replace(others, resolutions=names) for others, names in joined.items()]
