"""Somebody sets the clock of a gateway that has lost an answer: no date proves anything then."""

import pytest

from gateway.domain.billing import EntryKind, EvidenceKind
from gateway.domain.keys import Principal
from gateway.domain.tasks import TaskState
from gateway.ports import Runtime
from gateway.steadiness import Steadiness
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import accept, evidence_of, find_task, lose, pass_time, state_of, tuned

DAY_S = 86_400
QUIET_S = 900


@pytest.fixture
def right(clock: FakeClock, upstream: FakeUpstream) -> FakeClock:
    """Return the clock of the upstream, which nobody sets; tests move it along with ours."""
    right = FakeClock(clock.now)
    upstream.now_ms = right.now_ms
    return right


async def pass_all_time(
    runtime: Runtime,
    upstream: FakeUpstream,
    clock: FakeClock,
    right: FakeClock,
    duration_s: float,
) -> None:
    await pass_time(runtime, upstream, clock, duration_s)
    right.advance(duration_s)


def restarted(runtime: Runtime, clock: FakeClock) -> Runtime:
    """Return the runtime as a new process has it, which has never seen the clock be set."""
    runtime = tuned(runtime)
    object.__setattr__(runtime, "steadiness", Steadiness(clock))
    return runtime


async def test_a_quiet_time_that_the_clock_was_set_past_is_waited_for(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    right: FakeClock,
) -> None:
    await accept(runtime, principal)
    await pass_all_time(runtime, upstream, clock, right, 120)
    task_id = await lose(runtime, principal, upstream, is_made=False)
    await pass_all_time(runtime, upstream, clock, right, 120)
    clock.set_date(3600)

    await pass_all_time(runtime, upstream, clock, right, QUIET_S - 60)
    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    await pass_all_time(runtime, upstream, clock, right, QUIET_S)

    assert await evidence_of(runtime, task_id) == (EntryKind.RELEASE, EvidenceKind.ABSENT)


@pytest.mark.parametrize(
    ("by_s", "is_restarted"),
    [
        (-DAY_S, True),
        pytest.param(-DAY_S, False, marks=pytest.mark.long),
        pytest.param(DAY_S, True, marks=pytest.mark.long),
        pytest.param(DAY_S, False, marks=pytest.mark.long),
    ],
)
async def test_what_was_sent_by_a_wrong_clock_is_never_taken_for_absent(
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    right: FakeClock,
    by_s: float,
    is_restarted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    upstream.echoes = False
    await accept(runtime, principal)
    await pass_all_time(runtime, upstream, clock, right, 120)
    clock.set_date(by_s)
    task_id = await lose(runtime, principal, upstream)
    await pass_all_time(runtime, upstream, clock, right, 60)
    clock.set_date(-by_s)
    await pass_all_time(runtime, upstream, clock, right, 60)
    if is_restarted:
        runtime = restarted(runtime, clock)

    await pass_all_time(runtime, upstream, clock, right, 2 * DAY_S)

    assert await state_of(runtime, task_id) is TaskState.UNKNOWN
    assert await evidence_of(runtime, task_id) is None


async def test_nobody_is_given_what_another_project_sent_by_a_wrong_clock(
    runtime: Runtime,
    principal: Principal,
    stranger: Principal,
    upstream: FakeUpstream,
    clock: FakeClock,
    right: FakeClock,
) -> None:
    runtime = tuned(runtime, markers={"exclusion": True})
    upstream.echoes = False
    await pass_all_time(runtime, upstream, clock, right, 60)
    await accept(runtime, principal)
    await pass_all_time(runtime, upstream, clock, right, 120)
    mine = await lose(runtime, principal, upstream, is_made=False)
    clock.set_date(DAY_S)
    theirs = await lose(runtime, stranger, upstream)
    await pass_all_time(runtime, upstream, clock, right, 60)
    clock.set_date(-DAY_S)

    await pass_all_time(runtime, upstream, clock, right, DAY_S)

    assert (await find_task(runtime, mine)).upstream_task_id is None
    assert (await find_task(runtime, theirs)).upstream_task_id is None
