"""Markers: what goes out beside what the client gave, and that it changes nothing else."""

import random
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.attempts import NO_MARKERS, Markers
from gateway.domain.content import ItemType
from gateway.domain.markers import (
    DEFAULT_EXPIRY_S,
    SEED_MAX,
    MarkerPolicy,
    apply_markers,
    find_safety_marker,
    is_marked_expiry,
    make_markers,
    strip_safety_marker,
)
from gateway.domain.models import COMMON_PARAMETERS, LISTED_PARAMETERS, Mode
from gateway.domain.policy import NormalizePolicy
from gateway.domain.requests import NormalizedRequest, normalize
from gateway.ids import Entropy
from tests.support.requests import (
    LITE_I2V,
    PRO,
    V15,
    V20,
    V25,
    a_body,
    a_text,
    a_video,
    an_image,
    normalized,
    shipped_catalog,
)

EVERY = MarkerPolicy(seed=True, expires_after=True, safety_identifier=True)
NONE = MarkerPolicy(seed=False, expires_after=False, safety_identifier=False)
DRAFT_TASK = {
    "type": "draft_task",
    "draft_task": {"id": "cgt-20261122150102-abcdefghij2345674567"},
}
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
entropies = st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes)


def zeros(count: int) -> bytes:
    return bytes(count)


def ones(count: int) -> bytes:
    return b"\xff" * count


def test_a_seed_is_drawn_by_default_and_nothing_else() -> None:
    markers = make_markers(normalized(a_text()), ones)

    assert markers == Markers(seed=1 + (2**64 - 1) % SEED_MAX)


def test_no_marker_is_made_that_the_policy_leaves_out() -> None:
    assert make_markers(normalized(a_text()), ones, NONE) == NO_MARKERS


@given(entropy=entropies)
def test_every_marker_is_in_its_range(entropy: Entropy) -> None:
    markers = make_markers(normalized(a_text()), entropy, EVERY)

    assert markers.seed is not None
    assert 1 <= markers.seed <= SEED_MAX
    assert markers.expires_after_s is not None
    assert 0 < DEFAULT_EXPIRY_S - markers.expires_after_s < 1024
    assert markers.safety_identifier is not None
    assert find_safety_marker(f".{markers.safety_identifier}") == markers.safety_identifier
    assert markers.callback_token is None


@pytest.mark.parametrize("entropy", [zeros, ones])
def test_the_ends_of_a_draw_are_in_range_too(entropy: Entropy) -> None:
    markers = make_markers(normalized(a_text()), entropy, EVERY)

    assert markers.seed in range(1, SEED_MAX + 1)
    assert is_marked_expiry(markers.expires_after_s)


def test_two_attempts_hardly_ever_carry_the_same_seed() -> None:
    source = random.Random(20261122)
    request = normalized(a_text())

    seeds = {make_markers(request, source.randbytes).seed for _ in range(2000)}

    assert len(seeds) == 2000


@pytest.mark.parametrize(
    ("given_seed", "is_drawn"), [(None, True), (-1, True), (0, False), (51877, False)]
)
def test_the_clients_own_seed_is_never_changed(given_seed: int | None, *, is_drawn: bool) -> None:
    request = normalized(a_text(), seed=given_seed)

    markers = make_markers(request, ones)
    sent = apply_markers(request, markers)

    assert (markers.seed is not None) is is_drawn
    assert sent.parameters.seed == (markers.seed if is_drawn else given_seed)
    # Nor if it was marked by mistake.
    marked = apply_markers(request, Markers(seed=7)).parameters.seed
    assert marked == (7 if is_drawn else given_seed)


def test_the_clients_own_expiry_is_never_changed() -> None:
    request = normalized(a_text(), execution_expires_after=3600)

    assert make_markers(request, ones, EVERY).expires_after_s is None
    sent = apply_markers(request, Markers(expires_after_s=172_001))
    assert sent.parameters.execution_expires_after == 3600


@pytest.mark.parametrize("given_word", [None, "u-1", "a" * 47])
def test_a_suffix_stands_behind_the_clients_own_word(given_word: str | None) -> None:
    request = normalized(a_text(), safety_identifier=given_word)
    markers = make_markers(request, ones, EVERY)

    echoed = apply_markers(request, markers).parameters.safety_identifier

    assert echoed == f"{given_word or ''}.{markers.safety_identifier}"
    assert len(echoed) <= 64
    assert find_safety_marker(echoed) == markers.safety_identifier
    assert strip_safety_marker(echoed) == (given_word or "")


@pytest.mark.parametrize("given_word", ["a" * 48, SHA256])
def test_a_word_that_leaves_no_room_goes_out_as_it_is(given_word: str) -> None:
    request = normalized(a_text(), safety_identifier=given_word)

    markers = make_markers(request, ones, EVERY)

    assert markers.safety_identifier is None
    assert apply_markers(request, markers).parameters.safety_identifier == given_word


@pytest.mark.parametrize(
    "word", ["", "u-1", "u.sgm", f"u.sgm{'a' * 12}", f"u.sgm{'A' * 13}", f"sgm{'a' * 13}", None]
)
def test_a_clients_word_is_not_taken_for_a_marker(word: str | None) -> None:
    assert find_safety_marker(word) is None
    assert strip_safety_marker(word or "") == (word or "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (172_799, True),
        (171_777, True),
        (172_001.0, True),
        (172_800, False),
        (171_776, False),
        # Whole minutes are a client's.
        (172_200, False),
        (172_020.0, False),
        (3600, False),
        (-1, False),
        (True, False),
        ("172799", False),
        (None, False),
        ([172_799], False),
        (10**400, False),
        (float("inf"), False),
    ],
)
def test_an_expiry_of_ours_is_known(value: object, *, expected: bool) -> None:
    assert is_marked_expiry(value) is expected


def test_every_draw_of_an_expiry_is_known_as_ours() -> None:
    request = normalized(a_text())
    drawn = {
        make_markers(request, partial(int.to_bytes, number, byteorder="big"), EVERY).expires_after_s
        for number in range(1023)
    }

    assert len(drawn) >= 1000
    assert all(is_marked_expiry(value) for value in drawn)


@pytest.mark.parametrize("model", [V15, V25])
def test_a_finished_draft_carries_none(model: str) -> None:
    request = normalized(DRAFT_TASK, model=model)

    assert request.mode is Mode.DRAFT
    assert make_markers(request, ones, EVERY) == NO_MARKERS


def test_a_model_without_a_seed_gets_none() -> None:
    request = normalized(a_text(), model="house-1")

    assert make_markers(request, ones).seed is None


def test_a_mode_or_a_draft_without_the_parameter_gets_no_marker() -> None:
    request = normalized(a_text(), model=V15, draft=True, resolution="480p")
    family = request.family
    assert family.draft is not None
    strict = replace(family, draft=replace(family.draft, without=frozenset({"seed"})))
    modes = {
        **family.modes,
        Mode.T2V: replace(family.modes[Mode.T2V], without=frozenset({"seed"})),
    }

    assert make_markers(request, ones).seed is not None
    assert make_markers(replace(request, family=strict), ones).seed is None
    assert make_markers(replace(request, family=replace(family, modes=modes)), ones).seed is None


def test_a_request_without_markers_is_the_same_object() -> None:
    request = normalized(a_text(), an_image())

    assert apply_markers(request, NO_MARKERS) is request


TEXT, FRAMES = (a_text(),), (an_image("first_frame"), an_image("last_frame"))
PICTURE, REFERENCE = (a_text(), an_image()), (a_text(), an_image("reference_image"))
VIDEO = (a_text(), a_video())


@pytest.mark.parametrize(
    ("model", "content"),
    [
        *((model, TEXT) for model in (PRO, V15, V20, V25)),
        *((model, PICTURE) for model in (PRO, LITE_I2V, V15, V20, V25)),
        *((model, FRAMES) for model in (PRO, LITE_I2V, V15, V20, V25)),
        *((model, REFERENCE) for model in (LITE_I2V, V20, V25)),
        *((model, VIDEO) for model in (V20, V25)),
    ],
)
def test_a_marked_request_is_one_that_we_would_take_ourselves(
    model: str, content: tuple[object, ...]
) -> None:
    """Our rules are the vendor's, so that a marker is no reason for a refusal there."""
    request = normalized(*content, model=model)

    markers = make_markers(request, ones, EVERY)
    sent = apply_markers(request, markers)

    assert None not in {markers.seed, markers.expires_after_s, markers.safety_identifier}
    body = a_body(*content, model=model, **sent.parameters.as_json())
    assert normalize(body, shipped_catalog(), NormalizePolicy()) == sent
    assert _priced(sent) == _priced(request)


_MARKED = {"seed", "execution_expires_after", "safety_identifier"}


def _priced(request: NormalizedRequest) -> object:
    """Return all of a request that can make a difference to what is made, and to its price."""
    names = (COMMON_PARAMETERS | LISTED_PARAMETERS | {"frames", "draft"}) - _MARKED
    texts = [item.value for item in request.content if item.type is ItemType.TEXT]
    given_ = request.parameters.as_json()
    return (
        request.model,
        request.mode,
        texts,
        request.extra,
        request.text_commands,
        {name: given_.get(name) for name in names},
        request.resolution,
        request.ratio,
        request.duration_s,
    )
