import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain import tasks as rules
from gateway.domain.tasks import (
    IMPORTED_KEY,
    PUBLIC_STATUS,
    TERMINAL,
    TRANSITIONS,
    Event,
    Observation,
    Route,
    Task,
    TaskError,
    TaskId,
    TaskState,
    advance,
    can_advance,
    event_of,
    observe,
)

RANK = {
    TaskState.RESERVED: 0,
    TaskState.UNKNOWN: 1,
    TaskState.QUEUED: 2,
    TaskState.RUNNING: 3,
    **dict.fromkeys(TERMINAL, 4),
}


def a_task(state: TaskState = TaskState.QUEUED, version: int = 1) -> Task:
    return Task(
        id=TaskId("cgt-20261122150102-aaaaaaaaaaaaaaaaaaaa"),
        project_id="proj_a",
        key_id="key_a",
        model="m",
        family="f",
        route=Route("ark", "default", "m"),
        state=state,
        version=version,
        created_at_ms=1000,
        updated_at_ms=1000,
        submit_deadline_at_ms=2000,
        expires_at_ms=9000,
        next_poll_at_ms=1500,
    )


@pytest.mark.parametrize(("state", "event"), list(product(TaskState, Event)))
def test_every_pair_moves_forward_or_is_refused(state: TaskState, event: Event) -> None:
    if not can_advance(state, event):
        with pytest.raises(KeyError):
            advance(a_task(state), event, 2000)
        return

    moved = advance(a_task(state), event, 2000)

    assert RANK[moved.state] > RANK[state]
    assert moved.version == 2
    assert moved.updated_at_ms == 2000
    assert (moved.next_poll_at_ms is None) == (moved.state in TERMINAL)


def test_terminal_states_are_left_by_nothing() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] in TERMINAL]


def test_unknown_is_never_left_by_a_guess() -> None:
    left_by = {event for state, event in TRANSITIONS if state is TaskState.UNKNOWN}

    assert Event.LOST not in left_by
    assert Event.REFUSED not in left_by
    assert Event.VANISHED not in left_by


def test_the_diagram_names_every_state() -> None:
    drawn = set(re.findall(r"[a-z]+", rules.__doc__ or ""))

    assert {state.value for state in TaskState} <= drawn


def test_clients_see_six_statuses_and_no_rejected_task() -> None:
    assert set(PUBLIC_STATUS.values()) == {
        "queued",
        "running",
        "succeeded",
        "failed",
        "cancelled",
        "expired",
    }
    assert TaskState.REJECTED not in PUBLIC_STATUS


def test_time_of_a_task_never_runs_backwards() -> None:
    assert advance(a_task(), Event.STARTED, 500).updated_at_ms == 1000


def test_an_unknown_status_is_no_news() -> None:
    assert event_of("hibernating") is None
    assert observe(a_task(), Observation("hibernating", {}), 2000) is None


def test_a_queued_task_seen_queued_is_no_news() -> None:
    assert observe(a_task(), Observation("queued", {}), 2000) is None


def test_a_late_answer_does_not_turn_a_state_back() -> None:
    assert observe(a_task(TaskState.SUCCEEDED), Observation("running", {}), 2000) is None
    assert observe(a_task(TaskState.RUNNING), Observation("queued", {}), 2000) is None


def test_a_success_brings_the_fields_that_clients_see() -> None:
    seen = Observation("succeeded", {"content": {"video_url": "https://v"}})

    moved = observe(replace(a_task(), missing_count=2), seen, 2000)

    assert moved is not None
    assert moved.state is TaskState.SUCCEEDED
    assert moved.fields == {"content": {"video_url": "https://v"}}
    assert moved.missing_count == 0
    assert moved.error is None


def test_a_failure_without_a_reason_gets_one() -> None:
    moved = observe(a_task(), Observation("failed", {}), 2000)

    assert moved is not None
    assert moved.error == TaskError("InternalServiceError", "The upstream gave no reason.")


@given(st.lists(st.sampled_from(["queued", "running", "succeeded", "failed", "cancelled", "?"])))
def test_any_sequence_of_looks_moves_forward_only(statuses: list[str]) -> None:
    task = a_task()
    for at_ms, status in enumerate(statuses, 2000):
        moved = observe(task, Observation(status, {}), at_ms)
        if moved is not None:
            assert RANK[moved.state] > RANK[task.state]
            assert moved.version == task.version + 1
            task = moved


def test_a_call_back_is_news_until_a_look_has_shown_it() -> None:
    task = a_task()
    called = replace(task, called_back_at_ms=task.updated_at_ms + 1)

    assert (task.is_called_back, task.is_news_due) == (False, False)
    assert (called.is_called_back, called.is_news_due) == (True, True)
    looked_at = replace(called, updated_at_ms=task.updated_at_ms + 1)
    assert (looked_at.is_called_back, looked_at.is_news_due) == (True, False)


def test_a_task_of_no_key_is_an_imported_one_whatever_its_upstream_calls_it() -> None:
    task = a_task()

    assert not task.is_imported
    assert not replace(task, upstream_task_id=task.id).is_imported
    assert replace(task, key_id=IMPORTED_KEY, upstream_task_id=task.id).is_imported
