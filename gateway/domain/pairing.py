"""Pairs of two kinds of things: who may belong to whom, and who must.

Pairs are a mapping from each thing of the first kind to those of the second that it may belong to.
An *arrangement* gives every one of the first kind one of the second, and none of those to two.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Final

Pairs = Mapping[str, Sequence[str]]

# Beyond it nothing is called forced: the search stays within about a second.
_STEPS_MAX: Final = 5_000_000


def turn(pairs: Pairs) -> dict[str, list[str]]:
    """Return the same pairs, seen from the second kind."""
    turned: dict[str, list[str]] = {}
    for first, seconds in pairs.items():
        for second in seconds:
            turned.setdefault(second, []).append(first)
    return turned


def restrict(
    pairs: Pairs, firsts: Collection[str], seconds: Collection[str]
) -> dict[str, list[str]]:
    """Return the pairs between `firsts` and `seconds`; who has none left is left out."""
    kept = {
        first: [second for second in candidates if second in seconds]
        for first, candidates in pairs.items()
        if first in firsts
    }
    return {first: candidates for first, candidates in kept.items() if candidates}


def find_components(pairs: Pairs) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the parts, of both kinds, between which there is no pair."""
    turned = turn(pairs)
    left = dict.fromkeys(pairs)
    while left:
        firsts: set[str] = set()
        seconds: set[str] = set()
        waiting = [next(iter(left))]
        while waiting:
            first = waiting.pop()
            if first in firsts:
                continue
            firsts.add(first)
            del left[first]
            for second in pairs[first]:
                if second not in seconds:
                    seconds.add(second)
                    waiting += turned[second]
        yield firsts, seconds


def arrange(pairs: Pairs) -> dict[str, str] | None:
    """Return an arrangement, by the second kind, or None if there is none.

    Who comes first is served first, by the first that is free.
    """
    taken: dict[str, str] = {}
    # More of one kind than of the other can't be arranged, however they are paired.
    if len(pairs) > len({second for seconds in pairs.values() for second in seconds}):
        return None
    return taken if all(_place(pairs, taken, first) for first in pairs) else None


def find_forced(
    pairs: Pairs, taken: Mapping[str, str], seconds: Collection[str]
) -> list[tuple[str, str]]:
    """Return those pairs of `taken`, for `seconds`, that every arrangement of `pairs` has in it.

    `taken` is one arrangement. Of very many pairs none is returned: nothing is proved then.
    """
    wanted = [second for second in seconds if second in taken]
    if len(wanted) * sum(map(len, pairs.values())) > _STEPS_MAX:
        return []
    forced = []
    for second in wanted:
        first = taken[second]
        others = dict(taken)
        del others[second]
        if not _place(pairs, others, first, barred=second):
            forced.append((first, second))
    return forced


def _place(
    pairs: Pairs, taken: MutableMapping[str, str], newcomer: str, barred: str | None = None
) -> bool:
    """Give `newcomer` a place other than `barred`, moving others if need be; or change nothing."""
    reached_by: dict[str, str] = {}
    left_place: dict[str, str] = {}
    waiting = deque([newcomer])
    while waiting:
        first = waiting.popleft()
        for second in pairs[first]:
            if second in reached_by or (first == newcomer and second == barred):
                continue
            reached_by[second] = first
            if second in taken:
                left_place[taken[second]] = second
                waiting.append(taken[second])
                continue
            free = second
            while reached_by[free] != newcomer:
                mover = reached_by[free]
                taken[free] = mover
                free = left_place[mover]
            taken[free] = newcomer
            return True
    return False
