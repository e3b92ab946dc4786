from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.domain.attempts import Markers, Shape
from gateway.domain.likeness import (
    Policy,
    contradicts,
    is_marked,
    is_timely,
    is_too_early,
    window_ms,
)
from tests.support.attempts import DEADLINE_MS, MODEL, SENT_MS, a_listed, a_sent

SUFFIX: Final = "sgm" + "a" * 13
OTHER_SUFFIX: Final = "sgm" + "b" * 13
CAREFUL: Final = Policy(echoes_seed=True, echoes_expires_after=True, echoes_safety_identifier=True)


def test_a_window_begins_a_skew_before_the_first_byte_and_ends_after_the_latest_creation() -> None:
    policy = Policy(skew_ms=7, late_ms=100)

    assert window_ms(a_sent(), policy) == (SENT_MS - 7, SENT_MS + DEADLINE_MS + 107)


@pytest.mark.parametrize(
    ("after_ms", "is_in_time"),
    [
        (-60_001, False),
        (-60_000, True),
        (0, True),
        (DEADLINE_MS + 900_000 + 60_000, True),
        (DEADLINE_MS + 900_000 + 60_001, False),
    ],
)
def test_a_task_is_in_time_within_the_window(
    after_ms: int,
    is_in_time: bool,  # noqa: FBT001 - part of a table
) -> None:
    task = replace(a_listed(), created_at_ms=SENT_MS + after_ms)

    assert is_timely(a_sent(), task, Policy()) is is_in_time


@pytest.mark.parametrize(
    ("after_ms", "too_early"), [(-60_001, True), (-60_000, False), (10**9, False)]
)
def test_a_task_is_too_early_before_the_window_and_never_after_it(
    after_ms: int,
    too_early: bool,  # noqa: FBT001 - part of a table
) -> None:
    task = replace(a_listed(), created_at_ms=SENT_MS + after_ms)

    assert is_too_early(a_sent(), task, Policy()) is too_early
    assert not is_too_early(a_sent(), a_listed(after_s=None), Policy())


def test_of_a_task_without_a_date_nobody_knows_whether_it_is_in_time() -> None:
    assert is_timely(a_sent(), a_listed(after_s=None), Policy()) is None


@pytest.mark.parametrize(
    ("markers", "shown", "is_ours"),
    [
        (Markers(seed=7), {"seed": 7}, True),
        (Markers(seed=7), {"seed": 8}, False),
        (Markers(seed=7), {}, False),
        (Markers(), {"seed": None}, False),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": f"user.{SUFFIX}"}, True),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": f".{SUFFIX}"}, True),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": f"u.{OTHER_SUFFIX}"}, False),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": SUFFIX}, False),
        (Markers(), {"safety_identifier": "user"}, False),
        # An expiry is shared by many: it tells apart, and proves nothing.
        (Markers(expires_after_s=172_001), {"expires_after_s": 172_001}, False),
        # One of the two is enough, whatever the other shows.
        (Markers(seed=7, safety_identifier=SUFFIX), {"seed": 7, "safety_identifier": "u"}, True),
    ],
)
def test_a_task_is_marked_by_the_seed_or_the_suffix_that_we_drew(
    markers: Markers,
    shown: dict[str, Any],
    is_ours: bool,  # noqa: FBT001 - part of a table
) -> None:
    assert is_marked(a_sent(markers=markers), a_listed(**shown)) is is_ours


@pytest.mark.parametrize(
    ("markers", "shown"),
    [
        (Markers(seed=7), {"seed": 8}),
        (Markers(expires_after_s=172_001), {"expires_after_s": 172_800}),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": "user"}),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": ""}),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": f"u.{OTHER_SUFFIX}"}),
    ],
)
def test_another_marker_excludes_only_where_the_upstream_was_seen_to_echo_it(
    markers: Markers, shown: dict[str, Any]
) -> None:
    sent, task = a_sent(markers=markers), a_listed(**shown)

    assert contradicts(sent, task, CAREFUL)
    assert not contradicts(sent, task, Policy())


@pytest.mark.parametrize(
    ("markers", "shown"),
    [
        (Markers(seed=7), {"seed": 7}),
        (Markers(seed=7), {}),
        (Markers(), {"seed": 8, "expires_after_s": 1, "safety_identifier": f"u.{SUFFIX}"}),
        (Markers(expires_after_s=172_001), {}),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": None}),
        (Markers(safety_identifier=SUFFIX), {"safety_identifier": f"u.{SUFFIX}"}),
    ],
)
def test_what_is_not_shown_or_was_not_sent_excludes_nothing(
    markers: Markers, shown: dict[str, Any]
) -> None:
    assert not contradicts(a_sent(markers=markers), a_listed(**shown), CAREFUL)


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"resolution": "480P", "ratio": "16:9", "duration_s": 5},
        {"ratio": "adaptive"},
        {"duration_s": -1},
        {"model": None},
    ],
)
def test_a_task_of_the_same_shape_as_far_as_it_shows_it_is_not_excluded(
    shown: dict[str, Any],
) -> None:
    assert not contradicts(a_sent(), a_listed(**shown), Policy())


@pytest.mark.parametrize(
    "shown",
    [
        {"resolution": "720p"},
        {"ratio": "9:16"},
        {"duration_s": 6},
        {"model": "doubao-seedance-2-0-260128"},
    ],
)
def test_a_task_of_another_shape_is_excluded(shown: dict[str, Any]) -> None:
    assert contradicts(a_sent(), a_listed(**shown), Policy())


@pytest.mark.parametrize(
    "changes",
    [
        {"resolution": None},
        {"ratio": None},
        {"ratio": "adaptive"},
        {"duration_s": None},
        {"duration_s": -1},
    ],
)
def test_what_the_request_left_open_excludes_nothing(changes: dict[str, Any]) -> None:
    shape = replace(Shape(MODEL, "480p", "16:9", 5), **changes)
    (name,) = changes
    other: dict[str, Any] = {"resolution": "1080p", "ratio": "1:1", "duration_s": 9}

    assert not contradicts(a_sent(shape=shape), a_listed(**{name: other[name]}), Policy())


@pytest.mark.parametrize(
    ("deployment", "model", "is_other"),
    [
        (MODEL, MODEL, False),
        (MODEL, MODEL.upper(), False),
        ("seedance-1-0-pro-250528", MODEL, False),  # listed under its full id
        (MODEL, "seedance-1-0-pro", False),
        (MODEL, "doubao-seedance-1-0-pro-fast-251015", True),
        ("ep-1", MODEL, False),  # the list shows the model of an endpoint
        (MODEL, "ep-1", False),
        ("ep-1", "ep-1", False),
        ("ep-1", "ep-2", True),
        ("ep-1", None, False),
    ],
)
def test_models_are_told_apart_by_their_full_names_and_endpoints_by_theirs(
    deployment: str,
    model: str | None,
    is_other: bool,  # noqa: FBT001 - part of a table
) -> None:
    sent = a_sent(shape=Shape(deployment))

    assert contradicts(sent, a_listed(model=model), Policy()) is is_other
