from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import pytest

from gateway.domain.attempts import ListedTask
from gateway.domain.likeness import Policy, Standing
from gateway.domain.reconciling import (
    Pass,
    agree,
    counts_for_absence,
    is_absent,
    is_healthy,
    next_probe_ms,
    reading_start_ms,
)
from tests.support.attempts import (
    CONTROL,
    KNOWN,
    LATE_MS,
    QUIET_MS,
    SENT_MS,
    a_listed,
    a_pass,
    a_sent,
)

SHARED: Final = Policy()


class TestAbsence:
    def test_a_pass_counts_once_the_quiet_time_is_over_and_until_the_list_forgets(self) -> None:
        forgets_ms = SENT_MS - 60_000 + SHARED.list_span_ms

        def counts(began_ms: int, ended_ms: int | None = None) -> bool:
            seen = replace(a_pass(began_ms=began_ms), ended_at_ms=ended_ms or began_ms + 1000)
            return counts_for_absence(a_sent(), seen, SHARED)

        assert not counts(SENT_MS + QUIET_MS - 1)
        assert counts(SENT_MS + QUIET_MS)
        assert counts(forgets_ms - 1001)
        assert not counts(forgets_ms - 1000)
        assert not counts(SENT_MS + QUIET_MS, forgets_ms)

    @pytest.mark.parametrize("changes", [{"control": None}, {"is_complete": False}])
    def test_a_pass_that_can_not_be_believed_does_not_count(self, changes: dict[str, Any]) -> None:
        assert not counts_for_absence(a_sent(), a_pass(**changes), SHARED)

    def test_the_control_of_one_tier_says_nothing_of_another(self) -> None:
        default, flex = a_sent(), a_sent("b", service_tier="flex")

        assert counts_for_absence(default, a_pass(), SHARED)
        assert not counts_for_absence(flex, a_pass(), SHARED)

    @pytest.mark.parametrize(
        ("doubted_s", "is_believed"),
        [
            ((-5000, -4000), True),  # before both, the attempt and its control
            ((-3601, -3599), False),  # when the control was sent
            ((-1000, -500), False),  # between the two
            ((-5, 5), False),  # when the attempt was sent
            ((5, 10), True),
        ],
    )
    def test_dates_of_before_and_after_the_clock_was_set_are_not_compared(
        self, doubted_s: tuple[int, int], *, is_believed: bool
    ) -> None:
        first_s, last_s = doubted_s
        doubted_ms = (SENT_MS + first_s * 1000, SENT_MS + last_s * 1000)
        policy = replace(SHARED, doubted_ms=doubted_ms)

        assert counts_for_absence(a_sent(), a_pass(), policy) is is_believed

    @pytest.mark.parametrize("count", range(5))
    def test_three_passes_prove_absence(self, count: int) -> None:
        assert is_absent(a_sent(), count, SHARED) is (count >= 3)

    @pytest.mark.parametrize("standing", [Standing.IN_FLIGHT, Standing.GIVEN_UP])
    def test_only_a_lost_attempt_is_absent(self, standing: Standing) -> None:
        assert not is_absent(a_sent(standing=standing), 9, SHARED)

    def test_an_attempt_whose_address_was_called_is_not_absent(self) -> None:
        assert not is_absent(a_sent(is_called_back=True), 9, SHARED)


class TestHealth:
    def test_a_pass_that_shows_its_control_is_healthy(self) -> None:
        assert is_healthy(a_pass(), SHARED)

    def test_a_pass_without_one_or_that_does_not_show_it_is_not(self) -> None:
        assert not is_healthy(a_pass(control=None), SHARED)
        assert not is_healthy(replace(a_pass(), items=(a_listed(),)), SHARED)
        assert not is_healthy(a_pass(is_complete=False), SHARED)

    @pytest.mark.parametrize(
        ("shift_ms", "healthy"),
        [(-60_001, False), (-60_000, True), (61_000, True), (61_001, False)],
    )
    def test_the_control_has_to_have_been_made_when_it_was_sent(
        self,
        shift_ms: int,
        healthy: bool,  # noqa: FBT001 - part of a table
    ) -> None:
        shown = ListedTask(KNOWN, CONTROL.sent_at_ms + shift_ms)

        assert is_healthy(replace(a_pass(), items=(shown,)), SHARED) is healthy

    def test_of_a_control_without_a_date_it_is_enough_to_be_shown(self) -> None:
        assert is_healthy(replace(a_pass(), items=(ListedTask(KNOWN, None),)), SHARED)

    def test_of_a_control_that_is_shown_twice_both_must_be_right(self) -> None:
        wrong = ListedTask(KNOWN, CONTROL.sent_at_ms - 120_000)

        assert not is_healthy(a_pass(wrong), SHARED)


class TestAgreement:
    START_MS: Final = SENT_MS
    OLD: Final = (a_listed("up-1", after_s=10), a_listed("up-2", after_s=20))

    def agrees(self, first: Sequence[ListedTask], second: Sequence[ListedTask]) -> bool:
        one, other = (
            Pass(items, LATE_MS, LATE_MS + 1, is_complete=True) for items in (first, second)
        )
        return agree(one, other, self.START_MS, SHARED)

    def test_passes_that_list_the_same_agree_whatever_their_order_and_states(self) -> None:
        ended = [replace(task, status="succeeded") for task in reversed(self.OLD)]

        assert self.agrees(self.OLD, ended)

    def test_passes_that_differ_do_not(self) -> None:
        assert not self.agrees(self.OLD, self.OLD[:1])
        assert not self.agrees(self.OLD[1:], self.OLD)
        assert not self.agrees(self.OLD, (*self.OLD, a_listed("up-3", after_s=None)))

    def test_what_is_quite_new_or_too_old_does_not_matter(self) -> None:
        newest_ms = LATE_MS - SHARED.list_lag_ms - SHARED.skew_ms
        new = replace(a_listed("up-3"), created_at_ms=newest_ms + 1)
        old = replace(a_listed("up-4"), created_at_ms=self.START_MS - 1)

        assert self.agrees(self.OLD, (*self.OLD, new, old))
        assert not self.agrees(self.OLD, (*self.OLD, replace(new, created_at_ms=newest_ms)))
        assert not self.agrees(self.OLD, (*self.OLD, replace(old, created_at_ms=self.START_MS)))

    def test_an_incomplete_pass_agrees_with_none(self) -> None:
        whole = Pass(self.OLD, LATE_MS, LATE_MS + 1, is_complete=True)
        broken = replace(whole, is_complete=False)

        assert not agree(whole, broken, self.START_MS, SHARED)
        assert not agree(broken, whole, self.START_MS, SHARED)


def test_a_pass_must_read_back_to_the_oldest_lost_attempt() -> None:
    sent = [
        a_sent("a", after_s=300),
        a_sent("b", after_s=100),
        a_sent("c", standing=Standing.IN_FLIGHT),
        a_sent("d", standing=Standing.GIVEN_UP),
    ]

    assert reading_start_ms(sent, SHARED) == SENT_MS + 100_000 - 60_000
    assert reading_start_ms(sent[2:], SHARED) is None


def test_probes_come_soon_at_first_and_then_each_hour() -> None:
    at_ms, times_s = 0, []
    for count in range(70):
        at_ms = next_probe_ms(at_ms, count)
        times_s.append(at_ms // 1000)

    assert times_s[:5] == [1, 3, 10, 40, 70]
    assert times_s[42] == 10 + 40 * 30  # twenty minutes of half minutes
    assert times_s[43] - times_s[42] == 300
    assert times_s[66] == times_s[42] + 7200
    assert {later - earlier for earlier, later in pairwise(times_s[66:])} == {3600}


def test_probes_keep_up_with_faster_time() -> None:
    assert next_probe_ms(5, 0, 20.0) == 5 + 50
    assert next_probe_ms(5, 10**9, 20.0) == 5 + 180_000
