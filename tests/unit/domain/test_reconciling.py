from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.domain.attempts import ListedTask, Markers, Shape
from gateway.domain.likeness import Policy, Sent, Standing
from gateway.domain.reconciling import Proof, Verdict, match
from tests.support.attempts import (
    CONTROL,
    DEADLINE_MS,
    KNOWN,
    LATE_MS,
    MODEL,
    QUIET_MS,
    SENT_MS,
    a_listed,
    a_pass,
    a_sent,
)

OURS: Final = Policy(exclusion=True)
SHARED: Final = Policy()
SUFFIX: Final = "sgm" + "a" * 13


def judge(
    sent: Sequence[Sent],
    *items: ListedTask,
    policy: Policy = SHARED,
    known: Collection[str] = (KNOWN,),
    **changes: Any,
) -> Verdict:
    return match(sent, a_pass(*items, **changes), known, policy)


def adopted(verdict: Verdict) -> dict[str, tuple[str, Proof]]:
    assert len({each.task_id for each in verdict.adoptions}) == len(verdict.adoptions)
    return {each.task_id: (each.listed.upstream_task_id, each.proof) for each in verdict.adoptions}


def orphaned(verdict: Verdict) -> dict[str, tuple[str, ...]]:
    return {each.listed.upstream_task_id: each.task_ids for each in verdict.orphans}


def disputed(verdict: Verdict) -> dict[str, tuple[str, ...]]:
    return {each.task_id: each.upstream_task_ids for each in verdict.disputes}


def seeded(name: str, seed: int, **changes: Any) -> Sent:
    return a_sent(name, markers=Markers(seed=seed), **changes)


class TestByMarker:
    def test_a_task_with_an_attempts_marker_is_adopted(self) -> None:
        suffixed = a_sent("b", markers=Markers(safety_identifier=SUFFIX))
        first, second = a_listed("up-1", seed=7), a_listed("up-2", safety_identifier=f"u.{SUFFIX}")

        verdict = judge([seeded("a", 7), suffixed], first, second)

        assert adopted(verdict) == {"a": ("up-1", Proof.MARKER), "b": ("up-2", Proof.MARKER)}
        assert verdict.adoptions[0].listed is first
        assert not verdict.disputes + verdict.orphans
        assert not verdict.unseen

    @pytest.mark.parametrize(
        "changes", [{"is_complete": False}, {"control": None}, {"began_ms": SENT_MS + 5000}]
    )
    def test_also_in_a_pass_that_is_not_whole_not_proved_or_early(
        self, changes: dict[str, Any]
    ) -> None:
        verdict = judge([seeded("a", 7)], a_listed(seed=7), **changes)

        assert adopted(verdict) == {"a": ("up-1", Proof.MARKER)}

    def test_also_across_projects_as_it_is_a_proof(self) -> None:
        mine, others = seeded("a", 7, project_id="p1"), seeded("b", 8, project_id="p2")

        verdict = judge([mine, others], a_listed("up-1", seed=8), a_listed("up-2", seed=7))

        assert adopted(verdict) == {"a": ("up-2", Proof.MARKER), "b": ("up-1", Proof.MARKER)}

    def test_also_without_a_date(self) -> None:
        verdict = judge([seeded("a", 7)], a_listed(seed=7, after_s=None))

        assert adopted(verdict) == {"a": ("up-1", Proof.MARKER)}

    @pytest.mark.parametrize(
        ("policy", "shown"),
        [
            (SHARED, {"duration_s": 9}),
            (SHARED, {"after_s": -3600}),
            (replace(SHARED, echoes_expires_after=True), {"expires_after_s": 172_800}),
        ],
    )
    def test_a_marker_against_which_something_speaks_proves_nothing_and_is_kept_in_doubt(
        self, policy: Policy, shown: dict[str, Any]
    ) -> None:
        sent = a_sent(markers=Markers(seed=7, expires_after_s=172_001))
        task = a_listed(seed=7, status="succeeded", **shown)

        verdict = judge([sent], task, policy=policy)

        assert not adopted(verdict)
        assert not verdict.unseen
        assert not verdict.orphans
        assert disputed(verdict) == {"a": ("up-1",)}

    def test_a_marker_proves_also_what_came_later_than_it_should_have(self) -> None:
        verdict = judge([seeded("a", 7)], a_listed(seed=7, after_s=24 * 3600))

        assert adopted(verdict) == {"a": ("up-1", Proof.MARKER)}

    def test_a_marker_of_two_attempts_proves_nothing(self) -> None:
        twins = [seeded("a", 7, project_id="p1"), seeded("b", 7, project_id="p2")]

        verdict = judge(twins, a_listed(seed=7), policy=OURS)

        assert not adopted(verdict)
        assert disputed(verdict) == {"a": ("up-1",), "b": ("up-1",)}

    def test_of_two_tasks_that_the_upstream_made_the_first_is_adopted_and_the_other_nobodys(
        self,
    ) -> None:
        later, first = a_listed("up-1", seed=7, after_s=9), a_listed("up-2", seed=7, after_s=3)

        verdict = judge([seeded("a", 7)], later, first)

        assert adopted(verdict) == {"a": ("up-2", Proof.MARKER)}
        assert orphaned(verdict) == {"up-1": ("a",)}

    def test_an_attempt_in_flight_is_left_to_its_answer_and_its_task_to_it(self) -> None:
        flying = seeded("a", 7, standing=Standing.IN_FLIGHT)

        verdict = judge([flying, a_sent("b")], a_listed(seed=7), policy=OURS)

        assert verdict == Verdict(unseen=("b",))

    def test_each_marker_is_judged_by_itself(self) -> None:
        sent = [
            seeded("a", 7, standing=Standing.IN_FLIGHT),
            seeded("b", 8),
            seeded("c", 9, standing=Standing.GIVEN_UP),
            seeded("d", 10),
        ]
        tasks = [a_listed(f"up-{seed}", seed=seed) for seed in (10, 9, 8, 7)]

        verdict = judge(sent, *tasks)

        assert adopted(verdict) == {"b": ("up-8", Proof.MARKER), "d": ("up-10", Proof.MARKER)}
        assert orphaned(verdict) == {"up-9": ("c",)}

    def test_what_comes_of_an_attempt_that_was_given_up_is_an_orphan_of_it(self) -> None:
        given_up = seeded("a", 7, standing=Standing.GIVEN_UP)

        verdict = judge(
            [given_up, a_sent("b")], a_listed("up-1", seed=7), a_listed("up-2", seed=7, after_s=2)
        )

        assert not adopted(verdict)
        assert orphaned(verdict) == {"up-1": ("a",), "up-2": ("a",)}
        assert verdict.unseen == ("b",)

    def test_of_an_id_that_is_listed_twice_the_later_item_counts(self) -> None:
        verdict = judge([seeded("a", 7)], a_listed(), a_listed(seed=7))

        assert adopted(verdict) == {"a": ("up-1", Proof.MARKER)}

    def test_a_known_task_is_nobodys_news(self) -> None:
        verdict = judge([seeded("a", 7)], a_listed(seed=7), known=(KNOWN, "up-1"))

        assert verdict == Verdict(unseen=("a",))


class TestByExclusion:
    def test_the_only_task_of_an_account_of_our_own_is_that_of_the_only_attempt(self) -> None:
        verdict = judge([a_sent()], a_listed(), policy=OURS)

        assert adopted(verdict) == {"a": ("up-1", Proof.EXCLUSION)}
        assert not verdict.is_shared

    def test_not_where_the_account_is_shared(self) -> None:
        verdict = judge([a_sent()], a_listed(status="succeeded"))

        assert not adopted(verdict)
        assert disputed(verdict) == {"a": ("up-1",)}

    @pytest.mark.parametrize("changes", [{"is_complete": False}, {"control": None}])
    def test_not_by_a_pass_that_can_not_be_believed(self, changes: dict[str, Any]) -> None:
        verdict = judge([a_sent()], a_listed(status="succeeded"), policy=OURS, **changes)

        assert verdict == Verdict()

    def test_not_by_a_pass_whose_control_has_the_wrong_date(self) -> None:
        wrong = replace(CONTROL, accepted_at_ms=CONTROL.sent_at_ms - 60_001)

        assert judge([a_sent()], a_listed(), policy=OURS, control=wrong) == Verdict()

    def test_not_before_the_list_has_caught_up(self) -> None:
        """A task of a stranger's beside one that is not listed yet would be one too many."""
        listed_ms = SENT_MS + DEADLINE_MS + OURS.list_lag_ms

        early = judge([a_sent()], a_listed(), policy=OURS, began_ms=listed_ms - 1)
        settled = judge([a_sent()], a_listed(), policy=OURS, began_ms=listed_ms)

        assert not adopted(early)
        assert adopted(settled) == {"a": ("up-1", Proof.EXCLUSION)}

    def test_each_task_goes_to_whom_it_must_belong_to(self) -> None:
        short = a_sent("a", project_id="p1")
        long = a_sent("b", project_id="p2", shape=Shape(MODEL, "480p", "16:9", 9))

        verdict = judge(
            [short, long], a_listed("up-1", duration_s=9), a_listed("up-2"), policy=OURS
        )

        assert adopted(verdict) == {
            "a": ("up-2", Proof.EXCLUSION),
            "b": ("up-1", Proof.EXCLUSION),
        }

    def test_each_task_goes_to_whom_its_time_leaves(self) -> None:
        rivals = [a_sent("a", project_id="p1"), a_sent("b", project_id="p2", after_s=7200)]

        verdict = judge(
            rivals,
            a_listed("up-1", after_s=7201),
            a_listed("up-2", after_s=2),
            policy=OURS,
            began_ms=LATE_MS + 7_200_000,
        )

        assert adopted(verdict) == {
            "a": ("up-2", Proof.EXCLUSION),
            "b": ("up-1", Proof.EXCLUSION),
        }

    def test_of_two_projects_that_asked_for_the_same_nobody_gets_the_only_task(self) -> None:
        rivals = [a_sent("a", project_id="p1"), a_sent("b", project_id="p2")]

        verdict = judge(rivals, a_listed(status="succeeded"), policy=OURS)

        assert not adopted(verdict)
        assert disputed(verdict) == {"a": ("up-1",), "b": ("up-1",)}

    def test_of_two_projects_nobody_gets_one_of_two_tasks(self) -> None:
        """Both have one, but which is whose?"""
        rivals = [a_sent("a", project_id="p1"), a_sent("b", project_id="p2")]
        ended = [a_listed(name, status="succeeded") for name in ("up-1", "up-2")]

        verdict = judge(rivals, *ended, policy=OURS)

        assert not adopted(verdict)
        assert disputed(verdict) == {"a": ("up-1", "up-2"), "b": ("up-1", "up-2")}

    def test_equal_requests_of_one_project_get_them_in_order(self) -> None:
        later, earlier = a_sent("a", after_s=10), a_sent("b")

        both = judge(
            [later, earlier], a_listed("up-9", after_s=1), a_listed("up-1", after_s=2), policy=OURS
        )
        one = judge([later, earlier], a_listed("up-9"), policy=OURS)

        assert adopted(both) == {
            "b": ("up-9", Proof.EXCLUSION),
            "a": ("up-1", Proof.EXCLUSION),
        }
        assert adopted(one) == {"b": ("up-9", Proof.EXCLUSION)}
        assert one.unseen == ("a",)

    def test_another_request_of_the_same_project_is_not_the_same(self) -> None:
        rivals = [a_sent("a"), a_sent("b", fingerprint="g" * 64)]

        assert not adopted(judge(rivals, a_listed(), policy=OURS))

    def test_an_attempt_in_flight_may_have_the_task_as_well(self) -> None:
        flying = a_sent("b", standing=Standing.IN_FLIGHT)

        verdict = judge([a_sent("a"), flying], a_listed(status="succeeded"), policy=OURS)

        assert verdict == Verdict()

    def test_an_attempt_that_was_given_up_may_have_the_task_as_well(self) -> None:
        given_up = a_sent("b", project_id="p2", standing=Standing.GIVEN_UP)

        verdict = judge([a_sent("a"), given_up], a_listed(status="succeeded"), policy=OURS)

        assert not adopted(verdict)
        assert disputed(verdict) == {"a": ("up-1",)}

    def test_of_equal_requests_the_lost_one_goes_before_one_that_was_given_up(self) -> None:
        given_up = a_sent("a", standing=Standing.GIVEN_UP)

        verdict = judge([given_up, a_sent("b")], a_listed(), policy=OURS)

        assert adopted(verdict) == {"b": ("up-1", Proof.EXCLUSION)}
        assert not verdict.orphans

    def test_a_task_for_each_leaves_the_rest_to_who_was_given_up(self) -> None:
        given_up = a_sent("a", standing=Standing.GIVEN_UP)

        verdict = judge([given_up, a_sent("b")], a_listed("up-1"), a_listed("up-2"), policy=OURS)

        assert adopted(verdict) == {"b": ("up-1", Proof.EXCLUSION)}

    def test_what_is_marked_is_out_of_the_way(self) -> None:
        rivals = [seeded("a", 7, project_id="p1"), a_sent("b", project_id="p2")]

        verdict = judge(rivals, a_listed("up-1"), a_listed("up-2", seed=7), policy=OURS)

        assert adopted(verdict) == {
            "a": ("up-2", Proof.MARKER),
            "b": ("up-1", Proof.EXCLUSION),
        }

    def test_a_task_that_fits_nobody_shows_that_the_account_is_shared(self) -> None:
        verdict = judge([a_sent()], a_listed("up-1"), a_listed("up-2", duration_s=9), policy=OURS)

        assert verdict.is_shared
        assert not adopted(verdict)
        assert orphaned(verdict) == {"up-2": ()}

    def test_more_tasks_than_attempts_show_it_too(self) -> None:
        verdict = judge([a_sent()], a_listed("up-1"), a_listed("up-2"), policy=OURS)

        assert verdict.is_shared
        assert not adopted(verdict)

    @pytest.mark.parametrize("after_s", [-7200, None])
    def test_what_is_older_than_the_account_is_ours_does_not(self, after_s: int | None) -> None:
        policy = replace(OURS, dedicated_since_ms=SENT_MS - 3_600_000)
        stranger = a_listed("up-2", after_s=after_s, duration_s=9)

        verdict = judge([a_sent()], a_listed("up-1"), stranger, policy=policy)

        assert not verdict.is_shared
        assert adopted(verdict) == {"a": ("up-1", Proof.EXCLUSION)}
        assert orphaned(verdict) == {"up-2": ()}

    def test_where_it_is_known_to_be_shared_nothing_is_told_of_it(self) -> None:
        assert not judge([], a_listed()).is_shared

    def test_a_task_without_a_date_is_adopted_by_nobody_and_kept_in_doubt(self) -> None:
        verdict = judge([a_sent()], a_listed(after_s=None, status="succeeded"), policy=OURS)

        assert not adopted(verdict)
        assert not verdict.orphans
        assert disputed(verdict) == {"a": ("up-1",)}


class TestDisputes:
    def test_nothing_is_disputed_in_the_quiet_time(self) -> None:
        rivals = [a_sent("a", project_id="p1"), a_sent("b", project_id="p2")]
        ended = a_listed(status="succeeded")

        early = judge(rivals, ended, policy=OURS, began_ms=SENT_MS + QUIET_MS - 1)
        ripe = judge(rivals, ended, policy=OURS, began_ms=SENT_MS + QUIET_MS)

        assert early == Verdict()
        assert disputed(ripe) == {"a": ("up-1",), "b": ("up-1",)}

    @pytest.mark.parametrize("status", ["queued", "running", "", "on its way"])
    def test_a_task_that_may_still_show_its_seed_is_waited_for(self, status: str) -> None:
        assert judge([a_sent()], a_listed(status=status)) == Verdict()
        assert disputed(judge([a_sent()], a_listed(status=status, seed=9))) == {"a": ("up-1",)}

    @pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled", "expired"])
    def test_a_task_that_has_ended_will_tell_no_more(self, status: str) -> None:
        assert disputed(judge([a_sent()], a_listed(status=status))) == {"a": ("up-1",)}

    def test_a_rivals_answer_is_waited_for(self) -> None:
        flying = a_sent("b", after_s=600, standing=Standing.IN_FLIGHT)

        assert judge([a_sent("a"), flying], a_listed(status="failed", after_s=700)) == Verdict()

    def test_a_rivals_quiet_time_is_waited_for(self) -> None:
        rivals = [a_sent("a"), a_sent("b", after_s=600)]
        ended = a_listed(status="failed", after_s=700)
        ripe_ms = SENT_MS + 600_000 + QUIET_MS

        early = judge(rivals, ended, began_ms=ripe_ms - 1)
        ripe = judge(rivals, ended, began_ms=ripe_ms)

        assert early == Verdict()
        assert disputed(ripe) == {"a": ("up-1",), "b": ("up-1",)}

    def test_a_rival_that_was_sent_too_late_to_be_mistaken_is_not(self) -> None:
        """It rivals for a task without a date, and can't have that of a time before it."""
        undated = a_listed(status="failed", after_s=None)
        flying = a_sent("b", after_s=24 * 3600, standing=Standing.IN_FLIGHT)

        assert disputed(judge([a_sent("a"), flying], undated)) == {"a": ("up-1",)}

    def test_a_rival_that_was_given_up_is_not_waited_for(self) -> None:
        given_up = a_sent("b", after_s=600, standing=Standing.GIVEN_UP)
        ended = a_listed(status="failed", after_s=700)

        verdict = judge([a_sent("a"), given_up], ended, began_ms=SENT_MS + QUIET_MS)

        assert disputed(verdict) == {"a": ("up-1",)}

    def test_an_attempt_in_flight_is_not_disputed_itself(self) -> None:
        flying = a_sent(standing=Standing.IN_FLIGHT)

        assert judge([flying], a_listed(status="failed")) == Verdict()

    def test_no_more_than_twenty_tasks_are_named(self) -> None:
        many = [a_listed(f"up-{n:02}", status="failed", after_s=n) for n in range(30)]

        (named,) = disputed(judge([a_sent()], *many)).values()

        assert named == tuple(f"up-{n:02}" for n in range(20))

    @pytest.mark.parametrize("changes", [{"control": None}, {"is_complete": False}])
    def test_a_pass_that_can_not_be_believed_disputes_nothing(
        self, changes: dict[str, Any]
    ) -> None:
        assert not judge([a_sent()], a_listed(status="failed"), **changes).disputes


class TestOrphans:
    def test_a_task_that_no_attempt_can_have_is_nobodys(self) -> None:
        verdict = judge([a_sent()], a_listed(duration_s=9), a_listed("up-2", after_s=7200))

        assert orphaned(verdict) == {"up-1": (), "up-2": ()}
        assert verdict.unseen == ("a",)

    def test_a_task_that_only_given_up_attempts_can_have_is_an_orphan_of_theirs(self) -> None:
        given_up = [a_sent(name, standing=Standing.GIVEN_UP) for name in ("a", "b")]

        assert orphaned(judge(given_up, a_listed())) == {"up-1": ("a", "b")}

    @pytest.mark.parametrize("standing", [Standing.LOST, Standing.IN_FLIGHT])
    def test_a_task_that_an_open_attempt_may_have_is_none(self, standing: Standing) -> None:
        both = [a_sent("a", standing=Standing.GIVEN_UP), a_sent("b", standing=standing)]

        assert not judge(both, a_listed()).orphans

    def test_an_incomplete_pass_shows_only_marked_ones(self) -> None:
        given_up = seeded("a", 7, standing=Standing.GIVEN_UP)

        verdict = judge([given_up], a_listed(seed=7), a_listed("up-2"), is_complete=False)

        assert orphaned(verdict) == {"up-1": ("a",)}


class TestUnseen:
    def test_what_no_listed_task_can_be_is_unseen(self) -> None:
        flying = a_sent("b", standing=Standing.IN_FLIGHT)
        given_up = a_sent("c", standing=Standing.GIVEN_UP)

        verdict = judge([a_sent("a"), flying, given_up])

        assert verdict == Verdict(unseen=("a",))

    def test_an_incomplete_pass_leaves_nothing_unseen(self) -> None:
        assert judge([a_sent()], is_complete=False) == Verdict()
