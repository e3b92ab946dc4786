"""The judge itself: of a gateway with a mistake in it, it says so within a few seeds."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.domain import billing
from gateway.domain.billing import Evidence, EvidenceKind
from gateway.domain.tasks import Event
from gateway.errors import UpstreamAmbiguous
from gateway.services import moves, notifying, reconciling, sending
from gateway.storage import admission, attempts, balances, ledger, tasks
from tests.simulation.machine import Machine
from tests.simulation.run import run_seed
from tests.simulation.upstream import SimulatedUpstream

SEEDS_MAX = 25

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def send_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paid POST is sent once more when its answer is lost."""
    submit = SimulatedUpstream.submit

    async def retrying(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await submit(self, *args, **kwargs)
        except UpstreamAmbiguous:
            return await submit(self, *args, **kwargs)

    monkeypatch.setattr(SimulatedUpstream, "submit", retrying)


def release_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost answer lets go of the hold."""
    resolve = moves._resolve

    def releasing(reservation: Any, after: Any, evidence: Any, **kwargs: Any) -> Any:
        return resolve(
            reservation, after, evidence or Evidence(EvidenceKind.ABSENT, "no time"), **kwargs
        )

    async def give_up_at_once(runtime: Any, flight: Any, task: Any, outcome: Any) -> Any:
        if outcome.event is Event.LOST:
            outcome = sending.refused(UpstreamAmbiguous("The answer is lost."))
        return await record(runtime, flight, task, outcome)

    record = sending.record
    monkeypatch.setattr(moves, "_resolve", releasing)
    monkeypatch.setattr("gateway.services.submission.record", give_up_at_once)


def believe_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first list that does not show a lost task proves its absence."""
    monkeypatch.setattr(reconciling, "is_absent", lambda *_args: True)


def charge_the_quote(monkeypatch: pytest.MonkeyPatch) -> None:
    """A success is charged by what was quoted, whatever was used."""
    settle = billing.settle
    monkeypatch.setattr(
        moves,
        "settle",
        lambda price, held, _reported, evidence: settle(price, held, None, evidence),
    )


def forget_a_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was spent is in no balance."""
    add = balances.add

    def adding(*args: Any, spent: Any = None, **kwargs: Any) -> None:
        del spent
        add(*args, **kwargs)

    monkeypatch.setattr(balances, "add", adding)


def show_to_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task is found by its id alone."""
    monkeypatch.setattr(
        tasks, "find_owned", lambda conn, _owner, task_id: tasks.find(conn, task_id)
    )


def join_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes again after a lost answer pays again."""
    monkeypatch.setattr(attempts, "join", lambda *_args, **_kwargs: None)


def let_all_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """No budget is looked at."""
    monkeypatch.setattr(admission, "find_exceeded", lambda *_args: None)


def send_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is held for a task before it is sent."""
    monkeypatch.setattr(ledger, "hold", lambda *_args: None)


def tell_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settled tasks make no usage event."""
    monkeypatch.setattr(notifying, "add_usage", lambda *_args: None)


def forget_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An Idempotency-Key that is known is taken for a new one."""

    def forgetting(conn: sa.Connection, claim: Any, _bounds: Any) -> None:
        conn.execute(sa.text("DELETE FROM idempotency_keys WHERE key = :key"), {"key": claim.key})

    monkeypatch.setattr(admission, "_find_claimed", forgetting)


Mistake = Callable[[pytest.MonkeyPatch], None]


def find_noticing_seed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mistake: Mistake, said: str
) -> int | None:
    """Return the seed in which the judge first says what is wrong; None if it does in none."""
    mistake(monkeypatch)
    for seed in range(1, SEEDS_MAX + 1):
        if any(said in violation for violation in run_seed(machine, seed).violations):
            return seed
    return None


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (send_again, "P2"),
        (release_lost, "P8"),
        (charge_the_quote, "P6"),
        (forget_a_balance, "P7"),
        (send_first, "P4"),
    ],
)
def test_a_mistake_is_noticed_within_a_few_seeds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mistake: Mistake, said: str
) -> None:
    assert find_noticing_seed(machine, monkeypatch, mistake, said)


@pytest.mark.long
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (believe_absence, "P8"),
        (show_to_anybody, "was shown to"),
        (join_nobody, "P3"),
        (let_all_in, "P4"),
        (tell_nobody, "P10"),
        (forget_keys, "P2"),
    ],
)
def test_a_mistake_that_needs_an_occasion_is_noticed_as_well(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, mistake: Mistake, said: str
) -> None:
    seed = find_noticing_seed(machine, monkeypatch, mistake, said)

    print(f"{mistake.__name__}: noticed in seed {seed}")
    assert seed
