import json
from typing import Any

import pytest

from gateway.domain.stored import hash_texts, stored_form
from gateway.domain.tasks import Bill, Event, TaskError, TaskState
from gateway.domain.views import task_object
from tests.support.requests import V25, a_text, an_image, normalized
from tests.support.stored import NOW_MS, a_task, moved

DRAFT = {"type": "draft_task", "draft_task": {"id": "cgt-20251124160000-draft"}}


def echo_of(*content: object, **fields: Any) -> str:
    return json.dumps(stored_form(normalized(*content, **fields)))


def shown(echo: str | None = None, **changes: Any) -> dict[str, object]:
    return task_object(a_task(**changes), echo)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (TaskState.RESERVED, "queued"),
        (TaskState.UNKNOWN, "queued"),
        (TaskState.QUEUED, "queued"),
        (TaskState.RUNNING, "running"),
        (TaskState.SUCCEEDED, "succeeded"),
        (TaskState.FAILED, "failed"),
        (TaskState.CANCELLED, "cancelled"),
        (TaskState.EXPIRED, "expired"),
    ],
)
def test_a_task_without_news_shows_five_fields_and_no_hint_of_our_own_states(
    state: TaskState, status: str
) -> None:
    assert shown(state=state) == {
        "id": a_task().id,
        "model": "doubao-seedance-1-0-pro-250528",
        "status": status,
        "created_at": NOW_MS // 1000,
        "updated_at": NOW_MS // 1000,
    }


def test_a_succeeded_task_shows_the_upstreams_fields_in_the_contracts_order() -> None:
    task = moved(
        moved(a_task(), Event.ACCEPTED),
        Event.SUCCEEDED,
        fields={
            "seed": 7,
            "usage": {"completion_tokens": 9},
            "duration": 5,
            "content": {"video_url": "https://cdn.example/v.mp4"},
        },
        bill=Bill(135, "CNY", "own/2026-01-28/00000000"),
    )

    assert list(task_object(task, echo_of(a_text())).items()) == [
        ("id", task.id),
        ("model", task.model),
        ("status", "succeeded"),
        ("content", {"video_url": "https://cdn.example/v.mp4"}),
        ("usage", {"completion_tokens": 9}),
        ("created_at", NOW_MS // 1000),
        ("updated_at", NOW_MS // 1000 + 2),
        ("seed", 7),
        ("duration", 5),
        (
            "gateway",
            {
                "cost_micros": 135,
                "currency": "CNY",
                "price_version": "own/2026-01-28/00000000",
            },
        ),
    ]


def test_a_failed_task_shows_why() -> None:
    task = shown(state=TaskState.FAILED, error=TaskError("Code", "A message."))

    assert task["error"] == {"code": "Code", "message": "A message."}


def test_what_is_not_settled_shows_no_price() -> None:
    assert "gateway" not in shown(state=TaskState.SUCCEEDED, fields={"usage": {}})


def test_an_upstream_can_not_speak_in_the_gateways_place() -> None:
    own = ("id", "model", "status", "error", "created_at", "updated_at")
    lies = dict.fromkeys((*own, "message", "request", "gateway", "draft_task_id"), "a lie")

    assert shown(fields={**lies, "ratio": "16:9"}) == {**shown(), "ratio": "16:9"}


@pytest.mark.parametrize("conceal", [False, True])
def test_the_second_step_of_a_draft_names_it_as_its_client_knows_it(
    conceal: bool,  # noqa: FBT001 - both ways
) -> None:
    stored = stored_form(normalized(DRAFT, model=V25))
    echo = json.dumps(hash_texts(stored) if conceal else stored)

    found = shown(echo, fields={"draft_task_id": "the upstream's own"})

    assert found["draft_task_id"] == "cgt-20251124160000-draft"


@pytest.mark.parametrize(
    "echo",
    [
        None,
        echo_of(a_text()),
        echo_of(a_text('a "draft_task" in words'), an_image()),
        echo_of(a_text(), spare={"draft_task": {"id": "cgt-1"}}),
    ],
)
def test_other_requests_name_no_draft(echo: str | None) -> None:
    assert "draft_task_id" not in shown(echo)
