"""Races for the end of one task: everybody who may end it tries to, in one moment.

Every third task is a lost submission, which two kinds of evidence may find and one calls absent.
The others are queued. Eight observers see the task's end, a callback announces it, a sweeper takes
the task for vanished, a client cancels it, an operator decides.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.tasks import OBSERVED, Event, Observation, Task
from gateway.errors import GatewayError, UpstreamAmbiguous
from gateway.ports import Submission
from gateway.services import calling_back, observing, reconciling, resolving
from gateway.services.adopting import adopt
from gateway.services.cancelling import cancel_unfinished
from gateway.services.sending import Outcome, apply_outcome
from gateway.services.submission import submit_task
from gateway.storage import ledger, tasks
from tests.racing.race import (
    JsonObject,
    Racer,
    RacingUpstream,
    a_body,
    folder_of,
    succeeded,
)

STAKES_FILE: Final = "stakes.json"
_QUEUED: Final = Observation("queued", {})


@dataclass(frozen=True, slots=True)
class Stake:
    """What is raced for in one round: a task, as everybody knew it before."""

    task: Task
    upstream_task_id: str
    token: str
    end: Observation


Role = Callable[[Racer, Stake], Awaitable[object]]


async def settle(racer: Racer) -> JsonObject:
    """End one task a round, together with all others; count what became of our acts."""
    if racer.number == 0:
        await _lay_out(racer)
    racer.barrier.wait()
    stakes = await _read_stakes(racer)
    racer.upstream.shown |= {stake.upstream_task_id: _QUEUED for stake in stakes}
    told: Counter[str] = Counter()
    for number, stake in enumerate(stakes):
        racer.upstream.shown[stake.upstream_task_id] = _seen_by(racer, number, stake)
        racer.barrier.wait()
        await asyncio.gather(*(_act(racer, role, stake, told) for role in _roles_of(racer, stake)))
        racer.barrier.wait()
        racer.upstream.shown[stake.upstream_task_id] = stake.end
        await _act(racer, finish, stake, told)
    lost = sum(racer.runtime.metrics.lost_races.values.values())
    return {"outcomes": told, "lost_races": lost}


async def observe(racer: Racer, stake: Stake) -> None:
    await observing.look_at(racer.runtime, stake.task)


async def call_back(racer: Racer, stake: Stake) -> None:
    """Do what the upstream's callback brings about, a first look at once."""
    body = json.dumps({"id": stake.upstream_task_id, "status": stake.end.status}).encode()
    await calling_back.take_callback(racer.runtime, stake.token, body)
    await calling_back.verify_claims(racer.runtime)
    await observing.observe_due(racer.runtime, racer.upstream, "default")


async def vanish(racer: Racer, stake: Stake) -> None:
    """Take the task for vanished, without any evidence."""
    missing = replace(stake.task, missing_count=99, missing_since_ms=0)
    # Nobody waits here until the clock is trusted.
    observer = racer.runtime.config.observer.model_copy(update={"missing_s_min": 1e-6})
    config = racer.runtime.config.model_copy(update={"observer": observer})
    await observing._record_missing(replace(racer.runtime, config=config), missing)


async def cancel(racer: Racer, stake: Stake) -> None:
    """Cancel it, as one that the upstream still shows as queued."""
    upstream = RacingUpstream(shown={stake.upstream_task_id: _QUEUED})
    await cancel_unfinished(replace(racer.runtime, upstreams={"fake": upstream}), stake.task)


async def decide(racer: Racer, stake: Stake) -> None:
    """Say that it never was, as of one that the upstream does not show."""
    decision = resolving.Decision(resolving.Verdict.ABSENT, reason="nobody knows", is_forced=True)
    blind = replace(racer.runtime, upstreams={"fake": RacingUpstream()})
    await resolving.resolve(blind, "operator", stake.task.id, decision)


async def find(racer: Racer, stake: Stake) -> None:
    """Adopt what a list shows to have come of the lost submission."""
    await adopt(racer.runtime, stake.task, stake.upstream_task_id, stake.end, "marker")


async def prove_absent(racer: Racer, stake: Stake) -> None:
    evidence = Evidence(EvidenceKind.ABSENT, "three lists without it")
    await reconciling.give_up(racer.runtime, stake.task, reconciling.NOT_CONFIRMED, evidence)


async def answer_late(racer: Racer, stake: Stake) -> None:
    """Bring the upstream's answer, after all."""
    outcome = Outcome(Event.ACCEPTED, Submission(stake.upstream_task_id))
    await apply_outcome(racer.runtime, stake.task, outcome, is_id_given=True)


async def finish(racer: Racer, stake: Stake) -> None:
    """Follow the task to its end, if it has none, and decide of a hold that it left."""
    stored = await racer.runtime.db.read(tasks.find, stake.task.id)
    assert stored is not None
    if stored.task.state in OBSERVED:
        await observing.look_at(racer.runtime, stored.task)
    elif await racer.runtime.db.read(ledger.find_open, stake.task.id) is not None:
        decision = resolving.Decision(resolving.Verdict.CHARGE, reason="it was billed")
        await resolving.resolve(racer.runtime, "operator", stake.task.id, decision)


_FOLLOWED: Final[Sequence[Role]] = (*[observe] * 8, call_back, vanish, cancel, decide)
_LOST: Final[Sequence[Role]] = (*[find] * 8, call_back, prove_absent, cancel, answer_late, decide)


def _roles_of(racer: Racer, stake: Stake) -> Sequence[Role]:
    """Return what this racer plays: all roles are given out among all racers."""
    roles = _FOLLOWED if stake.task.state in OBSERVED else _LOST
    return roles[racer.number :: racer.race.racers_count]


def _seen_by(racer: Racer, number: int, stake: Stake) -> Observation:
    """Return what a racer sees of the task: some see it late, as it was before its end."""
    is_late = (number + racer.number) % 5 == 0
    return Observation("running", {}) if is_late else stake.end


async def _act(racer: Racer, role: Role, stake: Stake, told: Counter[str]) -> None:
    """Play a role; to be told that one comes too late is one of its ends."""
    try:
        await role(racer, stake)
    except GatewayError as error:
        told[f"{role.__name__}: {type(error).__name__}"] += 1
    else:
        told[role.__name__] += 1


async def _lay_out(racer: Racer) -> None:
    """Submit what is raced for, and tell the others of it."""
    upstream, stakes = racer.upstream, []
    upstream.makes_lost_tasks = True
    for number in range(racer.race.attempts_count):
        if number % 3 == 2:
            upstream.submit_errors = [UpstreamAmbiguous("lost")]
        principal = racer.principals[number % len(racer.principals)]
        submitted = await submit_task(racer.runtime, principal, a_body(str(number)), "req")
        callback_url = upstream.submits[-1].callback_url
        assert callback_url is not None
        stakes.append(
            {
                "task_id": submitted.task.id,
                "upstream_task_id": upstream.listed[0].upstream_task_id,
                "token": callback_url.rpartition("/")[2],
                "has_failed": number % 4 == 3,
            }
        )
    (folder_of(racer.race) / STAKES_FILE).write_text(json.dumps(stakes))


async def _read_stakes(racer: Racer) -> Sequence[Stake]:
    stakes = []
    for laid in json.loads((folder_of(racer.race) / STAKES_FILE).read_text()):
        stored = await racer.runtime.db.read(tasks.find, laid["task_id"])
        assert stored is not None
        end = Observation("failed", {}) if laid["has_failed"] else succeeded()
        stakes.append(Stake(stored.task, laid["upstream_task_id"], laid["token"], end))
    return stakes
