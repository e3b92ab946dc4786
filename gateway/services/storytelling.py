"""The story of a task: who asked for what, every move, every row of the ledger, every message."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.tasks import TRANSITIONS, Event, TaskState
from gateway.ports import Runtime
from gateway.services.status import no_such_task
from gateway.storage import stories
from gateway.storage.stories import Story, Transition

_GIVEN_UP: Final = "given_up"
_CHARGED: Final = "charged"
_GIVEN_UP_BY: Final[Mapping[EvidenceKind, str]] = {
    EvidenceKind.ABSENT: "absent",
    EvidenceKind.OPERATOR: "absent",
    EvidenceKind.DISPUTED: "disputed",
    EvidenceKind.REJECTED: "refused",
    EvidenceKind.NOT_SENT: "refused",
}


async def get_story(runtime: Runtime, task_id: str) -> Story:
    """Return all that is on record of any task. Raises TaskNotFound."""
    story = await runtime.db.read(stories.read_story, task_id)
    if story is None:
        raise no_such_task(task_id)
    return story


def tell_event(story: Story, move: Transition) -> str | None:
    """Return what a move came of, in a word.

    A submission that ends without an upstream task is `absent` in the table, whatever ended it:
    what proves it is in the ledger, by the entry of the same transaction.
    """
    if move.event is not Event.ABSENT:
        return None if move.event is None else move.event.value
    for entry in story.entries:
        if entry.evidence is None or entry.at_ms != move.at_ms:
            continue
        if entry.kind is EntryKind.SETTLE:
            return _CHARGED
        if entry.kind is EntryKind.RELEASE:
            return _GIVEN_UP_BY.get(entry.evidence.kind, _GIVEN_UP)
    return _GIVEN_UP  # its hold waits


def find_gaps(story: Story) -> Sequence[str]:
    """Return where the story does not lead to what the task is now, in a sentence each."""
    return [*_find_broken_moves(story), *_find_money_gaps(story)]


def _find_broken_moves(story: Story) -> Iterator[str]:
    moves, task = story.transitions, story.task
    if [move.version for move in moves] != list(range(1, len(moves) + 1)) or not moves:
        yield f"moves are missing: there are those to the versions {[m.version for m in moves]}"
        return
    if moves[0].to_state is not TaskState.RESERVED and not task.is_imported:
        yield f"it begins as {moves[0].to_state.value}"
    for before, after in pairwise(moves):
        if after.from_state is not before.to_state:
            yield f"version {after.version} does not follow version {before.version}"
        if not _is_known(after):
            yield f"version {after.version} is no move that there is"
    if moves[-1].to_state is not task.state:
        yield f"it ends as {moves[-1].to_state.value}, and the task is {task.state.value}"


def _is_known(move: Transition) -> bool:
    if move.from_state is None or move.event is None:
        return False
    return TRANSITIONS.get((move.from_state, move.event)) is move.to_state


def _find_money_gaps(story: Story) -> Iterator[str]:
    if story.attempt is not None and story.reservation is None:
        yield "nothing was held for it"
    kinds = [entry.kind for entry in story.entries]
    if (story.reservation is not None) != (kinds[:1] == [EntryKind.HOLD]):
        yield "its hold and the ledger do not agree"
    yield from (
        f"nothing proves its {entry.kind.value}"
        for entry in story.entries
        if entry.kind is not EntryKind.HOLD and entry.evidence is None
    )
    settled = [entry for entry in story.entries if entry.kind is EntryKind.SETTLE]
    shown = None if story.task.bill is None else story.task.bill.cost_micros
    if shown != (settled[0].cost_micros if settled else None):
        yield "its client is shown another cost than the ledger's"
