"""The story of a task: who asked for what, every move, every row of the ledger, every message."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from gateway.domain.billing import EntryKind
from gateway.domain.tasks import TRANSITIONS, TaskState
from gateway.ports import Runtime
from gateway.services.status import no_such_task
from gateway.storage import stories
from gateway.storage.stories import Story, Transition


async def get_story(runtime: Runtime, task_id: str) -> Story:
    """Return all that is on record of any task. Raises TaskNotFound."""
    story = await runtime.db.read(stories.read_story, task_id)
    if story is None:
        raise no_such_task(task_id)
    return story


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
