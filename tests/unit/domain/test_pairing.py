from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.pairing import arrange, find_components, find_forced, restrict, turn

PAIRS = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.sampled_from("12345"), min_size=1, max_size=5, unique=True),
    max_size=4,
)


def every_arrangement(pairs: dict[str, list[str]]) -> list[dict[str, str]]:
    """All of them, by trying everything."""
    return [
        dict(zip(seconds, pairs, strict=True))
        for seconds in permutations("12345", len(pairs))
        if all(second in pairs[first] for first, second in zip(pairs, seconds, strict=True))
    ]


@given(PAIRS)
def test_an_arrangement_is_found_if_there_is_one(pairs: dict[str, list[str]]) -> None:
    found = arrange(pairs)

    assert found in every_arrangement(pairs) if found is not None else not every_arrangement(pairs)


@given(PAIRS)
def test_forced_is_what_every_arrangement_has(pairs: dict[str, list[str]]) -> None:
    taken = arrange(pairs)
    if taken is None:
        return
    everything = every_arrangement(pairs)

    assert set(find_forced(pairs, taken, "12345")) == {
        (first, second)
        for second, first in taken.items()
        if all(other.get(second) == first for other in everything)
    }


@given(PAIRS)
def test_components_have_no_pair_between_them(pairs: dict[str, list[str]]) -> None:
    parts = list(find_components(pairs))

    assert sorted(first for firsts, _ in parts for first in firsts) == sorted(pairs)
    for firsts, seconds in parts:
        assert seconds == {second for first in firsts for second in pairs[first]}
    assert sum(len(seconds) for _, seconds in parts) == len(turn(pairs))


def test_of_very_many_pairs_nothing_is_called_forced() -> None:
    count = 2000
    pairs = {f"a{n}": [f"b{n}", f"b{n + 1}"] for n in range(count)} | {f"a{count}": ["b0"]}
    taken = arrange(pairs)

    assert taken is not None
    assert find_forced(pairs, taken, list(taken)[:10]) != []
    assert find_forced(pairs, taken, list(taken)) == []


def test_who_has_no_pair_left_is_left_out() -> None:
    assert restrict({"a": ["1", "2"], "b": ["2"], "c": ["1"]}, "ab", "1") == {"a": ["1"]}
