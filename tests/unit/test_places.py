"""Who may have deliveries in progress."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.places import Places


def take_all(places: Places, *receivers: str) -> Counter[str]:
    """Take what is granted, and return how much each has got by that."""
    granted = Counter(dict(places.grant(receivers)))
    for receiver in granted.elements():
        places.take(receiver)
    return granted


def proved(places: Places, *receivers: str) -> Places:
    for receiver in receivers:
        places.take(receiver)
        places.give_back(receiver, is_delivered=True)
    return places


def test_a_receiver_that_was_never_delivered_to_has_one_place() -> None:
    places = Places(32, 4)

    assert take_all(places, "new") == {"new": 1}
    assert take_all(places, "new") == {}


def test_a_receiver_that_takes_deliveries_has_a_few_places() -> None:
    places = proved(Places(32, 4), "good")

    assert take_all(places, "good") == {"good": 4}
    assert take_all(places, "good") == {}
    places.give_back("good", is_delivered=True)
    assert take_all(places, "good") == {"good": 1}


def test_a_failure_takes_the_places_away_again() -> None:
    places = proved(Places(32, 4), "good")
    take_all(places, "good")

    for _ in range(4):
        places.give_back("good", is_delivered=False)

    assert take_all(places, "good") == {"good": 1}


def test_receivers_that_do_not_answer_have_half_of_the_places_however_many_they_are() -> None:
    places = proved(Places(8, 4), "good")

    silent = take_all(places, *(f"silent-{number}" for number in range(1000)))

    assert silent.total() == 4
    assert take_all(places, "good") == {"good": 4}


def test_a_good_receiver_that_fails_while_it_has_many_places_lends_none_to_others_in_doubt() -> (
    None
):
    places = proved(Places(8, 4), "good")
    take_all(places, "good")
    places.give_back("good", is_delivered=False)

    assert take_all(places, "new-1", "new-2") == {"new-1": 1}


def test_one_place_is_enough_for_everybody_in_turn() -> None:
    places = Places(1, 4)

    assert take_all(places, "a", "b") == {"a": 1}
    places.give_back("a", is_delivered=False)
    assert take_all(places, "b", "a") == {"b": 1}


@given(
    places_max=st.integers(1, 12),
    receiver_max=st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60),
)
def test_no_place_is_given_twice(
    places_max: int, receiver_max: int, steps: list[tuple[str, bool]]
) -> None:
    places = Places(places_max, receiver_max)
    taken: Counter[str] = Counter()
    for receiver, is_delivered in steps:
        taken += take_all(places, *dict.fromkeys(receiver + "abcdefgh"))
        assert taken.total() == places.taken_count <= places_max
        assert max(taken.values(), default=0) <= max(receiver_max, 1)
        if taken[receiver]:
            taken[receiver] -= 1
            places.give_back(receiver, is_delivered=is_delivered)
    for receiver in list(taken.elements()):
        places.give_back(receiver, is_delivered=True)
    assert places.taken_count == 0
