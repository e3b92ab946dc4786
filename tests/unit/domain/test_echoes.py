import json
from dataclasses import replace
from typing import Final

import pytest

from gateway.domain.attempts import ListedTask, Markers
from gateway.domain.echoes import (
    Echo,
    EchoReport,
    Marker,
    Sighting,
    apply_report,
    begin_report,
    note,
    report_from_json,
)
from gateway.domain.likeness import Policy
from tests.support.attempts import a_listed

SUFFIX: Final = "sgm" + "a" * 13
EVERY: Final = Markers(seed=7, expires_after_s=172_001, safety_identifier=SUFFIX)
FULL: Final = a_listed(
    status="succeeded", seed=7, expires_after_s=172_001, safety_identifier=f"u.{SUFFIX}"
)


def begun(markers: Markers = EVERY) -> EchoReport:
    return begin_report(1000, "a model", markers)


def test_a_report_begins_with_the_markers_that_were_sent() -> None:
    assert set(begun().echoes) == set(Marker)
    assert set(begun(Markers(seed=7)).echoes) == {Marker.SEED}
    assert begun(Markers(callback_token="t")).echoes == {}


def test_what_the_list_shows_first_is_kept() -> None:
    queued = replace(FULL, status="queued", seed=None, safety_identifier=None)

    report = note(begun(), EVERY, queued, 5000, is_listed=True)
    report = note(report, EVERY, FULL, 90_000, is_listed=True)
    report = note(report, EVERY, FULL, 95_000, is_listed=True)

    first, last = Sighting(5000, "queued"), Sighting(90_000, "succeeded")
    assert report.listed == first
    assert report.echoes == {
        Marker.SEED: Echo(listed=last),
        Marker.EXPIRES_AFTER: Echo(listed=first),
        Marker.SAFETY_IDENTIFIER: Echo(listed=last),
    }


def test_what_a_read_shows_is_kept_apart() -> None:
    report = note(begun(), EVERY, FULL, 90_000, is_listed=False)

    assert report.listed is None
    assert {echo.listed for echo in report.echoes.values()} == {None}
    assert report.echoes[Marker.SEED].read == Sighting(90_000, "succeeded")
    assert apply_report(Policy(), report) == Policy()


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        (Marker.SEED, replace(FULL, seed=8)),
        (Marker.EXPIRES_AFTER, replace(FULL, expires_after_s=172_800)),
        (Marker.SAFETY_IDENTIFIER, replace(FULL, safety_identifier="u")),
        (Marker.SAFETY_IDENTIFIER, replace(FULL, safety_identifier="")),
    ],
)
@pytest.mark.parametrize("is_listed", [False, True])
def test_one_other_value_at_any_time_and_nothing_is_believed_of_that_marker(
    marker: Marker,
    shown: ListedTask,
    is_listed: bool,  # noqa: FBT001 - both ways
) -> None:
    report = note(begun(), EVERY, FULL, 5000, is_listed=True)
    report = note(report, EVERY, shown, 9000, is_listed=is_listed)
    report = note(report, EVERY, FULL, 9999, is_listed=True)

    policy = apply_report(Policy(), report)

    assert {
        Marker.SEED: policy.echoes_seed,
        Marker.EXPIRES_AFTER: policy.echoes_expires_after,
        Marker.SAFETY_IDENTIFIER: policy.echoes_safety_identifier,
    } == {each: each is not marker for each in Marker}


def test_what_was_not_sent_or_not_seen_is_not_believed() -> None:
    sent = begun(Markers(seed=7))
    seen = note(sent, Markers(seed=7), FULL, 0, is_listed=True)
    unseen = note(begun(), EVERY, a_listed(), 0, is_listed=True)

    assert apply_report(Policy(), seen) == Policy(echoes_seed=True)
    assert apply_report(Policy(echoes_seed=True), unseen) == Policy()


@pytest.mark.parametrize(
    ("after_ms", "lag_ms"), [(0, 60_000), (30_000, 60_000), (50_000, 100_000), (10**9, 900_000)]
)
def test_a_list_that_is_slow_is_given_twice_its_time_and_no_more_than_the_quiet_one(
    after_ms: int, lag_ms: int
) -> None:
    report = note(begun(), EVERY, FULL, after_ms, is_listed=True)

    assert apply_report(Policy(), report).list_lag_ms == lag_ms


def test_a_report_is_read_as_it_was_stored() -> None:
    empty = begun()
    read = note(empty, EVERY, replace(FULL, seed=8), 5000, is_listed=False)
    full = note(read, EVERY, FULL, 90_000, is_listed=True)

    for report in (empty, read, full):
        assert report_from_json(json.loads(json.dumps(report.as_json()))) == report
