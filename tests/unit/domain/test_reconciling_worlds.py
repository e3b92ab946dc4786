"""Worlds in which it is known whose each task is: what is judged must be true, and proved.

A world has attempts of two projects, the tasks that came of them, those of strangers, and a list
that shows as little of them as it likes. The policy says of the upstream only what is so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Final

from hypothesis import event, given
from hypothesis import strategies as st

from gateway.domain.attempts import ListedTask, Markers, Shape
from gateway.domain.likeness import Policy, Sent, Standing
from gateway.domain.reconciling import Pass, Proof, Verdict, match
from tests.support.attempts import DEADLINE_MS, MODEL, SENT_MS, a_listed, a_pass, a_sent

STARTS_S: Final = (0, 300, 7200)
"""The second window overlaps the first, the third does not."""
LENGTHS_S: Final[Mapping[str, int]] = {"f": 5, "g": 9, "h": 5}
"""What a request asks for: `f` and `h` differ in their prompts alone."""
DEDICATED_MS: Final = SENT_MS - 3_600_000
LATEST_MS: Final = SENT_MS + 7_200_000 + DEADLINE_MS + 30 * 60_000


@dataclass(frozen=True)
class World:
    sent: Sequence[Sent]
    listed: Sequence[ListedTask]
    owners: Mapping[str, str]
    """Upstream task -> the attempt that it came of; a stranger's has none."""
    twins: frozenset[str]
    """Tasks that the upstream made of an attempt once more."""
    policy: Policy
    seen: Pass

    @property
    def by_name(self) -> Mapping[str, Sent]:
        return {each.attempt.task_id: each for each in self.sent}

    def kind_of(self, name: str | None) -> tuple[str, str] | None:
        """Return the project and the request: attempts of one kind may be taken for each other."""
        if name is None:
            return None
        attempt = self.by_name[name].attempt
        return attempt.project_id, attempt.fingerprint

    def judge(self) -> Verdict:
        return match(self.sent, self.seen, ("up-known",), self.policy)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    is_dedicated, echoes_seed = draw(st.integers(0, 3)) > 0, draw(st.booleans())
    sent, listed, owners, twins = [], [], {}, set()
    for number in range(draw(st.integers(1, 5))):
        asked = draw(st.sampled_from("ffgh"))
        each = a_sent(
            f"a{number}",
            after_s=draw(st.sampled_from(STARTS_S)),
            project_id=draw(st.sampled_from(["p1", "p2"])),
            fingerprint=asked,
            shape=Shape(MODEL, duration_s=LENGTHS_S[asked]),
            markers=Markers(seed=draw(st.sampled_from([None, None, 1000 + number]))),
            standing=draw(st.sampled_from([*Standing, *[Standing.LOST] * 4])),
        )
        sent.append(each)
        for task in draw(tasks_of(each, number, echoes_seed=echoes_seed)):
            owners[task.upstream_task_id] = each.attempt.task_id
            listed.append(task)
            if task.upstream_task_id.endswith("twin"):
                twins.add(task.upstream_task_id)
    listed += draw(strangers(is_dedicated=is_dedicated))
    policy = Policy(
        exclusion=is_dedicated, dedicated_since_ms=DEDICATED_MS, echoes_seed=echoes_seed
    )
    began_ms = draw(st.sampled_from([LATEST_MS, LATEST_MS, SENT_MS + DEADLINE_MS + 61_000]))
    seen = a_pass(*draw(st.permutations(listed)), began_ms=began_ms)
    if draw(st.integers(0, 9)) == 0:
        seen = replace(seen, controls={})
    return World(sent, listed, owners, frozenset(twins), policy, seen)


@st.composite
def tasks_of(draw: st.DrawFn, sent: Sent, number: int, *, echoes_seed: bool) -> list[ListedTask]:
    """Return what came of an attempt, as far as it is listed."""
    if draw(st.integers(0, 3)) == 0:
        return []
    seed = sent.attempt.markers.seed
    # What the client gave, or the upstream drew though it was sent another.
    drawn = 50 + number if seed is None or not echoes_seed else seed
    facts: dict[str, Any] = {
        "model": draw(st.sampled_from([MODEL, None])),
        "duration_s": draw(st.sampled_from([sent.attempt.shape.duration_s, None])),
        "status": draw(st.sampled_from(["queued", "running", "succeeded", "failed"])),
        "seed": draw(st.sampled_from([seed, None, drawn])),
    }
    # From a clock that is a minute slow, to one that is fast, of a task made at the last moment.
    sent_s = (sent.attempt.created_at_ms - SENT_MS) // 1000
    last_s = DEADLINE_MS // 1000 + 900 + 60
    at_s = draw(st.sampled_from([-60, 1, 500, last_s]))
    is_dated = draw(st.integers(0, 5)) > 0
    task = a_listed(f"up-{number}", after_s=sent_s + at_s if is_dated else None, **facts)
    if seed is not None and facts["seed"] == seed and draw(st.integers(0, 3)) == 0:
        return [task, replace(task, upstream_task_id=f"up-{number}-twin")]
    return [task]


@st.composite
def strangers(draw: st.DrawFn, *, is_dedicated: bool) -> list[ListedTask]:
    """Return tasks of others: in an account of our own, those of a time when it was not."""
    late = [] if is_dedicated else [10, 400, 7300]
    return [
        a_listed(
            f"up-stranger-{number}",
            after_s=draw(st.sampled_from([-4000, -100_000, *late])),
            duration_s=draw(st.sampled_from([5, 9, None])),
            status="succeeded",
            seed=draw(st.sampled_from([None, 7])),
        )
        for number in range(draw(st.sampled_from([0, 0, 1, 2])))
    ]


def may_have(sent: Sent, task: ListedTask, world: World) -> bool:
    """Say in the plainest way whether a task with a date can have come of an attempt."""
    if task.created_at_ms is None:
        return False
    after_ms = task.created_at_ms - sent.attempt.created_at_ms
    seed = sent.attempt.markers.seed
    return (
        -60_000 <= after_ms <= DEADLINE_MS + 900_000 + 60_000
        and task.duration_s in {None, sent.attempt.shape.duration_s}
        and not (world.policy.echoes_seed and seed and task.seed and task.seed != seed)
    )


def arrangements(world: World, marked: set[str]) -> Iterator[Mapping[str, str]]:
    """Yield every way in which each task that is left may have come of another attempt."""
    names = [name for name in world.by_name if name not in marked]
    tasks = [
        task
        for task in world.listed
        if not any(is_marked_for(each, task, world) for each in world.sent)
        and any(may_have(world.by_name[name], task, world) for name in names)
    ]
    for chosen in permutations(names, len(tasks)):
        if all(
            may_have(world.by_name[name], task, world)
            for name, task in zip(chosen, tasks, strict=True)
        ):
            yield dict(zip((task.upstream_task_id for task in tasks), chosen, strict=True))


def is_marked_for(sent: Sent, task: ListedTask, world: World) -> bool:
    return (
        sent.attempt.markers.seed is not None
        and sent.attempt.markers.seed == task.seed
        and (task.created_at_ms is None or may_have(sent, task, world))
    )


def find_marked(world: World) -> set[str]:
    return {
        each.attempt.task_id
        for each in world.sent
        if any(is_marked_for(each, task, world) for task in world.listed)
    }


@given(worlds())
def test_no_task_is_ever_given_to_another_project(world: World) -> None:
    for each in world.judge().adoptions:
        owner = world.owners.get(each.listed.upstream_task_id)
        event(each.proof.value)
        if each.proof is Proof.MARKER:
            assert owner == each.task_id
        else:
            assert world.policy.exclusion
            assert world.kind_of(owner) == world.kind_of(each.task_id)


@given(worlds())
def test_what_is_adopted_holds_in_every_world_that_looks_the_same(world: World) -> None:
    ways = list(arrangements(world, find_marked(world)))

    for each in world.judge().adoptions:
        if each.proof is Proof.EXCLUSION:
            kinds = {world.kind_of(way[each.listed.upstream_task_id]) for way in ways}
            assert kinds == {world.kind_of(each.task_id)}


@given(worlds())
def test_what_is_proved_is_adopted(world: World) -> None:
    verdict = world.judge()
    adopted = {each.task_id: each.listed.upstream_task_id for each in verdict.adoptions}
    marked = find_marked(world)

    for name in marked:
        if world.by_name[name].standing is Standing.LOST:
            assert name in adopted
    if not world.policy.exclusion or not world.seen.controls:
        assert adopted.keys() <= marked
        return
    ways = list(arrangements(world, marked))
    assert ways
    assert not verdict.is_shared
    for listed_id in ways[0]:
        owners = {way[listed_id] for way in ways}
        each = world.by_name[min(owners)]
        is_settled = world.seen.began_at_ms >= each.lost_at_ms + world.policy.list_lag_ms
        if len(owners) == 1 and each.standing is Standing.LOST and is_settled:
            assert adopted[each.attempt.task_id] == listed_id


@given(worlds())
def test_whoever_has_a_listed_task_is_neither_absent_nor_passed_over(world: World) -> None:
    verdict = world.judge()
    adopted = {each.listed.upstream_task_id: each.task_id for each in verdict.adoptions}
    known = {name: each.standing for name, each in world.by_name.items()}

    for name in verdict.unseen:
        # Its task, if it is listed, was given to one that may as well have it.
        for listed_id, owner in world.owners.items():
            if owner == name and listed_id not in world.twins:
                assert world.kind_of(adopted[listed_id]) == world.kind_of(name)
    for orphan in verdict.orphans:
        orphan_id = orphan.listed.upstream_task_id
        whose = world.owners.get(orphan_id)
        is_twin = bool({orphan_id, f"{orphan_id}-twin"} & world.twins)
        assert whose is None or is_twin or known[whose] is Standing.GIVEN_UP
        assert orphan.task_ids or whose is None
    lost = {name for name, standing in known.items() if standing is Standing.LOST}
    judged = [
        *(each.task_id for each in verdict.adoptions),
        *(each.task_id for each in verdict.disputes),
        *verdict.unseen,
    ]
    assert len(judged) == len(set(judged))
    assert set(judged) <= lost
    assert len(adopted) == len(verdict.adoptions)
    assert not adopted.keys() & {each.listed.upstream_task_id for each in verdict.orphans}


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_list_and_attempts_makes_no_difference(world: World, random: Any) -> None:
    items, sent = list(world.seen.items), list(world.sent)
    random.shuffle(items)
    random.shuffle(sent)
    other = replace(world, sent=sent, seen=replace(world.seen, items=items))

    assert parts_of(other.judge()) == parts_of(world.judge())


def parts_of(verdict: Verdict) -> tuple[object, ...]:
    return (
        {(each.task_id, each.listed.upstream_task_id, each.proof) for each in verdict.adoptions},
        {(each.task_id, frozenset(each.upstream_task_ids)) for each in verdict.disputes},
        {(each.listed.upstream_task_id, each.task_ids) for each in verdict.orphans},
        set(verdict.unseen),
        verdict.is_shared,
    )
