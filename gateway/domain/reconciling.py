"""Which listed task came of which submission whose answer was lost. Pure judgement, no I/O.

A wrong adoption across projects is worse than lost money. So a task is adopted on one of two
proofs. A *marker*: the list echoes what this attempt alone was sent with. Or *exclusion*, where the
credential is the gateway's alone: then every listed task came of some attempt, and a pair is proved
that stands in every way of giving each task an attempt. What neither proves waits: a list lags, a
running task shows little, another attempt's answer may still come. When the quiet time is over and
waiting can't help any more, an attempt that tasks may belong to is disputed, and one that three
complete lists could have shown, and did not, is absent.

All this holds only if attempts and known ids are read from the store in one transaction *after* the
list: then the attempt of every task in it is among them, unless the task is not the gateway's.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from gateway.domain.attempts import ListedTask
from gateway.domain.likeness import (
    DEFAULT_TIER,
    Policy,
    Sent,
    Standing,
    contradicts,
    is_marked,
    is_timely,
    is_too_early,
    may_be_lost,
    may_be_restored,
    share_a_clock,
    window_ms,
)
from gateway.domain.markers import find_safety_marker
from gateway.domain.pairing import arrange, find_components, find_forced, restrict, turn
from gateway.domain.tasks import TERMINAL

_FIRST_DELAYS_MS: Final = (1_000, 2_000, 7_000)
_DELAYS: Final = ((40, 30_000), (24, 300_000))
_LAST_DELAY_MS: Final = 3_600_000
_ENDED: Final = frozenset(state.value for state in TERMINAL)
_DISPUTED_IDS_MAX: Final = 20


class Proof(StrEnum):
    MARKER = "marker"
    EXCLUSION = "exclusion"


@dataclass(frozen=True, slots=True)
class Control:
    """A task of ours that a list has to show before it is believed: the positive control.

    It is the last one of the account and service tier that was accepted `list_lag_ms` before the
    list was read; not one that was deleted or cancelled, nor one that the list may have forgotten.
    """

    upstream_task_id: str
    sent_at_ms: int
    accepted_at_ms: int
    seed: int | None = None
    """What it was sent with."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of an account's list. Of an id that is listed twice, the later item counts."""

    items: Sequence[ListedTask]
    began_at_ms: int
    ended_at_ms: int
    is_complete: bool
    """Every page was read whole, at least as far back as `reading_start_ms`."""
    controls: Mapping[str, Control] = field(default_factory=dict)
    """By service tier: the lists of two tiers are two lists, and one says nothing of the other."""


@dataclass(frozen=True, slots=True)
class Adoption:
    task_id: str
    listed: ListedTask
    proof: Proof


@dataclass(frozen=True, slots=True)
class Dispute:
    """An attempt that some of these upstream tasks may belong to; no more than twenty are named."""

    task_id: str
    upstream_task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Orphan:
    """A listed task that no open attempt can have."""

    listed: ListedTask
    task_ids: tuple[str, ...] = ()
    """What it may be of: tasks that were given up, or one that has its twin. Empty: nobody's."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one pass says. It repeats itself: callers skip the orphans that they have recorded."""

    adoptions: tuple[Adoption, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    unseen: tuple[str, ...] = ()
    """Lost tasks that no listed task can be: `counts_for_absence` says if that counts."""
    undecided_ids: frozenset[str] = field(default=frozenset(), compare=False)
    """Listed tasks that may be of an attempt whose answer is waited for: not decided yet."""
    is_shared: bool = False
    """Other software uses the account, though the policy says it does not: switch exclusion off,
    loudly. No task was adopted by exclusion."""


def match(sent: Sequence[Sent], seen: Pass, known_ids: Collection[str], policy: Policy) -> Verdict:
    """Judge one pass over the list of an account.

    `sent` are the attempts of the account that are in flight, lost, or were given up while the list
    goes back to them; `known_ids` the upstream ids of all other tasks, orphans recorded before
    included. Both are read after the pass has ended. An incomplete pass proves by marker only.
    """
    board = _lay_out(sent, seen, known_ids, policy)
    marked = _match_markers(board)
    if not seen.is_complete:
        return Verdict(adoptions=tuple(marked.adoptions), orphans=tuple(marked.orphans))
    rest = board.without(marked)
    unowned = _find_orphans(rest)
    excluded = _Matched()
    is_shared = False
    if _may_exclude(sent, seen, policy):
        pairs = arrange(rest.fits)
        is_shared = pairs is None or _has_stranger(unowned, policy)
        if pairs is not None and not is_shared:
            excluded = _match_by_exclusion(rest, pairs)
    left = rest.without(excluded)
    claimable = turn(left.possible)
    return Verdict(
        adoptions=(*marked.adoptions, *excluded.adoptions),
        disputes=_find_disputes(left, claimable),
        orphans=(*marked.orphans, *unowned),
        unseen=tuple(
            key
            for key, each in left.sent.items()
            if each.standing is Standing.LOST and key not in claimable
        ),
        undecided_ids=frozenset(left.possible) - {each.listed.upstream_task_id for each in unowned},
        is_shared=is_shared,
    )


def _may_exclude(sent: Sequence[Sent], seen: Pass, policy: Policy) -> bool:
    """Whether every listed task came of some attempt, and their dates can be compared."""
    return (
        policy.exclusion
        and share_a_clock(_dates_of(sent, seen), policy)
        and not any(
            may_be_restored(each, policy) for each in sent if each.standing is not Standing.GIVEN_UP
        )
    )


def is_healthy(seen: Pass, policy: Policy, service_tier: str = DEFAULT_TIER) -> bool:
    """Whether a pass may be believed in what of a tier it does not show: it shows its control.

    That has to be well dated. Without a control it may not: an account of which nothing is known
    proves nothing.
    """
    control = seen.controls.get(service_tier)
    if control is None or not seen.is_complete:
        return False
    shown = [task for task in seen.items if task.upstream_task_id == control.upstream_task_id]
    return bool(shown) and all(
        task.created_at_ms is None
        or control.sent_at_ms - policy.skew_ms
        <= task.created_at_ms
        <= control.accepted_at_ms + policy.skew_ms
        for task in shown
    )


def shows_seed_of_control(seen: Pass) -> bool:
    """Whether a list shows the seed that a control was sent with: it gives back seeds."""
    seeds = {control.upstream_task_id: control.seed for control in seen.controls.values()}
    return any(
        task.seed is not None and seeds.get(task.upstream_task_id) == task.seed
        for task in seen.items
    )


def counts_for_absence(sent: Sent, seen: Pass, policy: Policy) -> bool:
    """Whether a pass that did not show a lost attempt is one of those that prove its absence."""
    forgotten_at_ms = sent.attempt.created_at_ms - policy.skew_ms + policy.list_span_ms
    return (
        is_healthy(seen, policy, sent.service_tier)
        and share_a_clock(_dates_of([sent], seen), policy)
        and seen.began_at_ms >= sent.deadline_at_ms + policy.quiet_ms
        and seen.ended_at_ms < forgotten_at_ms
    )


def _dates_of(sent: Iterable[Sent], seen: Pass) -> Iterator[int]:
    """Yield the dates by which tasks are taken to be of attempts, or not to be."""
    for each in sent:
        yield each.attempt.created_at_ms
    for control in seen.controls.values():
        yield control.sent_at_ms


def is_absent(sent: Sent, pass_count: int, policy: Policy) -> bool:
    """Whether a lost attempt has made no task, after `pass_count` passes that count.

    The count is `Attempt.pass_count`, with the present pass; one that shows a task which the
    attempt may have made sets it back to 0.
    """
    return (
        sent.standing is Standing.LOST
        and not sent.is_called_back
        and pass_count >= policy.pass_count_min
    )


def next_probe_ms(now_ms: int, probe_count: int, time_scale: float = 1.0) -> int:
    """Return when the list is read again for an attempt, after `probe_count` readings of it.

    That is 1, 3 and 10 s after it was lost, then every 30 s for twenty minutes, every five minutes
    for two hours, and each hour from then on. Whoever asks gives up at the horizon.
    """
    return now_ms + int(_probe_delay_ms(probe_count) / time_scale)


def reading_start_ms(sent: Iterable[Sent], policy: Policy) -> int | None:
    """Return how far back a pass must read to be complete for the lost among `sent`, if any are."""
    starts = (window_ms(each, policy)[0] for each in sent if each.standing is Standing.LOST)
    return min(starts, default=None)


def agree(first: Pass, second: Pass, start_ms: int, policy: Policy) -> bool:
    """Whether two passes list the same tasks since `start_ms`, but for those that are quite new.

    Pages shift while they are read. What two passes agree on was not missed by either.
    """
    end_ms = first.began_at_ms - policy.list_lag_ms - policy.skew_ms

    def ids(seen: Pass) -> set[str]:
        return {
            task.upstream_task_id
            for task in seen.items
            if task.created_at_ms is None or start_ms <= task.created_at_ms <= end_ms
        }

    return first.is_complete and second.is_complete and ids(first) == ids(second)


class _Matched:
    """What one step has found, and which tasks and attempts the next steps leave out."""

    def __init__(self) -> None:
        self.adoptions: list[Adoption] = []
        self.orphans: list[Orphan] = []
        self.listed_ids: set[str] = set()
        self.sent_ids: set[str] = set()

    def adopt(self, task_id: str, listed: ListedTask, proof: Proof) -> None:
        self.adoptions.append(Adoption(task_id, listed, proof))
        self.listed_ids.add(listed.upstream_task_id)
        self.sent_ids.add(task_id)


@dataclass(frozen=True, slots=True)
class _Board:
    """Attempts and listed tasks that are not known, in order of time, and who may belong together.

    The pairs go from listed tasks to attempts. `strong` ones share a marker, and nothing speaks
    against them; a task that came later than it should has. `fits` are possible by time and shape.
    `possible` are all that can't be ruled out: also tasks without a date, and those that carry an
    attempt's marker though something does speak against them.
    """

    seen: Pass
    policy: Policy
    sent: Mapping[str, Sent]
    listed: Mapping[str, ListedTask]
    strong: Mapping[str, Sequence[str]]
    fits: Mapping[str, Sequence[str]]
    possible: Mapping[str, Sequence[str]]
    healthy_tiers: frozenset[str]

    def without(self, matched: _Matched) -> "_Board":
        """Return the board without the tasks and attempts that were matched."""
        sent = {key: each for key, each in self.sent.items() if key not in matched.sent_ids}
        listed = {key: task for key, task in self.listed.items() if key not in matched.listed_ids}
        strong, fits, possible = (
            restrict(pairs, listed, sent) for pairs in (self.strong, self.fits, self.possible)
        )
        return replace(self, sent=sent, listed=listed, strong=strong, fits=fits, possible=possible)


def _lay_out(
    sent: Sequence[Sent], seen: Pass, known_ids: Collection[str], policy: Policy
) -> _Board:
    # In order of time: among equals, the first task goes to the first attempt.
    in_order = sorted(sent, key=lambda each: (each.attempt.created_at_ms, each.attempt.task_id))
    last_items = {task.upstream_task_id: task for task in seen.items}
    by_time = sorted(
        (task for task in last_items.values() if task.upstream_task_id not in known_ids),
        key=lambda task: (task.created_at_ms or 0, task.upstream_task_id),
    )
    strong: dict[str, list[str]] = {}
    fits: dict[str, list[str]] = {}
    possible: dict[str, list[str]] = {}
    for task in _find_relevant(by_time, in_order, policy):
        for each in in_order:
            key, listed_id = each.attempt.task_id, task.upstream_task_id
            is_ours, is_in_time = is_marked(each, task), is_timely(each, task, policy)
            if not is_ours and is_in_time is False:
                continue
            is_ruled_out = contradicts(each, task, policy)
            if is_ours and not is_too_early(each, task, policy) and not is_ruled_out:
                strong.setdefault(listed_id, []).append(key)
            if is_in_time and not is_ruled_out:
                fits.setdefault(listed_id, []).append(key)
            if is_ours or not is_ruled_out:
                possible.setdefault(listed_id, []).append(key)
    return _Board(
        seen,
        policy,
        {each.attempt.task_id: each for each in in_order},
        {task.upstream_task_id: task for task in by_time},
        strong,
        fits,
        possible,
        frozenset(
            tier for tier in {each.service_tier for each in sent} if is_healthy(seen, policy, tier)
        ),
    )


def _find_relevant(
    tasks: Iterable[ListedTask], sent: Sequence[Sent], policy: Policy
) -> Iterator[ListedTask]:
    """Yield the tasks that any attempt may have: a long list is read for a few of them."""
    windows = [window_ms(each, policy) for each in sent]
    start_ms = min((start for start, _ in windows), default=0)
    end_ms = max((end for _, end in windows), default=0)
    seeds = {each.attempt.markers.seed for each in sent} - {None}
    for task in tasks:
        if (
            task.created_at_ms is None
            or start_ms <= task.created_at_ms <= end_ms
            or task.seed in seeds
            or find_safety_marker(task.safety_identifier) is not None
        ):
            yield task


def _match_markers(board: _Board) -> _Matched:
    """Match what markers prove: one attempt, all of whose marked tasks are marked for it alone.

    Several tasks with the marker of one attempt are one that the upstream made twice. The first is
    adopted, the others are its orphans. A marker of several attempts proves nothing.
    """
    matched = _Matched()
    for key, listed_ids in turn(board.strong).items():
        if any(len(board.strong[listed_id]) > 1 for listed_id in listed_ids):
            continue
        first, *twins = (board.listed[listed_id] for listed_id in listed_ids)
        matched.sent_ids.add(key)
        matched.listed_ids.update(listed_ids)
        match board.sent[key].standing:
            case Standing.LOST:
                matched.adopt(key, first, Proof.MARKER)
                matched.orphans += [Orphan(twin, (key,)) for twin in twins]
            case Standing.GIVEN_UP:
                matched.orphans += [Orphan(task, (key,)) for task in (first, *twins)]
            case Standing.IN_FLIGHT:
                pass
    return matched


def _match_by_exclusion(board: _Board, pairs: Mapping[str, str]) -> _Matched:
    """Match what is proved by every listed task being of some attempt; `pairs` is one such way."""
    matched = _Matched()
    settled = [key for key in board.sent if _is_settled(board, key)]
    for listed_id, key in find_forced(board.fits, pairs, settled):
        matched.adopt(key, board.listed[listed_id], Proof.EXCLUSION)
    rest = board.without(matched)
    for listed_ids, keys in find_components(rest.fits):
        if not _are_alike(rest, keys):
            continue
        # Lost ones first: a task that may as well be theirs is of no use to one that was given up.
        in_order = [key for key in rest.sent if key in keys]
        lost_first = sorted(in_order, key=lambda key: rest.sent[key].standing is not Standing.LOST)
        fits = {
            listed_id: [key for key in lost_first if key in rest.fits[listed_id]]
            for listed_id in rest.listed
            if listed_id in listed_ids
        }
        for key, listed_id in (arrange(fits) or {}).items():
            if rest.sent[key].standing is Standing.LOST:
                matched.adopt(key, rest.listed[listed_id], Proof.EXCLUSION)
    return matched


def _is_settled(board: _Board, key: str) -> bool:
    """Whether an attempt is lost, and a task that it had made before would be listed by now.

    Beside that task a stranger's is one too many, and is taken for nobody's.
    """
    each = board.sent[key]
    return (
        each.standing is Standing.LOST
        and each.service_tier in board.healthy_tiers
        and board.seen.began_at_ms >= each.lost_at_ms + board.policy.list_lag_ms
    )


def _are_alike(board: _Board, keys: Collection[str]) -> bool:
    """Whether any way of giving tasks to these attempts is right: one project, one request."""
    sent = [board.sent[key] for key in keys]
    kinds = {(each.attempt.project_id, each.attempt.fingerprint) for each in sent}
    return len(kinds) == 1 and all(
        each.standing is Standing.GIVEN_UP or _is_settled(board, each.attempt.task_id)
        for each in sent
    )


def _find_orphans(board: _Board) -> list[Orphan]:
    """Return the tasks that no attempt in flight and no lost one can have."""
    found = []
    for listed_id, task in board.listed.items():
        keys = board.possible.get(listed_id, [])
        if all(board.sent[key].standing is Standing.GIVEN_UP for key in keys):
            found.append(Orphan(task, tuple(keys)))
    return found


def _has_stranger(orphans: Iterable[Orphan], policy: Policy) -> bool:
    return any(
        not orphan.task_ids
        and orphan.listed.created_at_ms is not None
        and orphan.listed.created_at_ms >= policy.dedicated_since_ms
        and not may_be_lost(orphan.listed, policy)
        for orphan in orphans
    )


def _find_disputes(board: _Board, claimable: Mapping[str, Sequence[str]]) -> tuple[Dispute, ...]:
    """Return the lost attempts that listed tasks may belong to, where waiting can't help."""
    return tuple(
        Dispute(key, tuple(listed_ids[:_DISPUTED_IDS_MAX]))
        for key, listed_ids in claimable.items()
        if board.sent[key].standing is Standing.LOST
        and board.sent[key].service_tier in board.healthy_tiers
        and _is_ripe(board, key, listed_ids)
    )


def _is_ripe(board: _Board, key: str, listed_ids: Sequence[str]) -> bool:
    """Whether neither its tasks nor the attempts that rival for them will tell more.

    A task that runs may show its seed when it ends; an answer may come and name a rival's task.
    """
    each, policy, began_at_ms = board.sent[key], board.policy, board.seen.began_at_ms
    if began_at_ms < each.deadline_at_ms + policy.quiet_ms:
        return False
    tasks = [board.listed[listed_id] for listed_id in listed_ids]
    if any(task.status not in _ENDED and task.seed is None for task in tasks):
        return False
    end_ms = window_ms(each, policy)[1]
    rivals = {rival for task in tasks for rival in board.possible[task.upstream_task_id]}
    return not any(
        window_ms(rival, policy)[0] <= end_ms
        and (
            rival.standing is Standing.IN_FLIGHT
            or (
                rival.standing is Standing.LOST
                and began_at_ms < rival.deadline_at_ms + policy.quiet_ms
            )
        )
        for rival in (board.sent[name] for name in rivals)
    )


def _probe_delay_ms(probe_count: int) -> int:
    if probe_count < len(_FIRST_DELAYS_MS):
        return _FIRST_DELAYS_MS[probe_count]
    left_count = probe_count - len(_FIRST_DELAYS_MS)
    for count, delay_ms in _DELAYS:
        if left_count < count:
            return delay_ms
        left_count -= count
    return _LAST_DELAY_MS
