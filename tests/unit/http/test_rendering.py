import json
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace

import orjson

from gateway.domain.tasks import Route, Task, TaskError, TaskId, TaskState
from gateway.http import ark, seedance
from gateway.http.rendering import body_of, dump_json, render_page
from gateway.status_cache import Entry

SEEDANCE = seedance.open_surface("A message")
TASK = Task(
    id=TaskId("cgt-20261122150102-aaaaaaaaaaaaaaaaaaaa"),
    project_id="proj_1",
    key_id="key_1",
    model="house-model",
    family="1.0 pro",
    route=Route("main", "default", "ep-secret"),
    state=TaskState.QUEUED,
    version=2,
    created_at_ms=1_795_330_862_999,
    updated_at_ms=1_795_330_866_001,
    submit_deadline_at_ms=0,
    expires_at_ms=0,
    upstream_task_id="cgt-20261122150102-q7w2x",
)
FIELDS = {
    "seed": 7,
    "usage": {"completion_tokens": 49005},
    "id": "cgt-20261122150102-q7w2x",
    "status": "processing",
    "content": {"video_url": "https://videos.example/v.mp4"},
    "created_at": 1,
    "message": "upstream's",
    "gateway": {"cost_micros": 0},
    "draft_task_id": "cgt-20261122150102-q7w2y",
    "duration": 5,
}


def shown(task: Task, echo: Mapping[str, object] | None = None) -> dict[str, object]:
    rendered: dict[str, object] = orjson.loads(
        SEEDANCE.render_entry(Entry(task, None if echo is None else json.dumps(echo), 0.0))
    )
    return rendered


def test_a_queued_task_shows_what_is_known_and_no_more() -> None:
    bare = orjson.loads(ark.SURFACE.render_entry(Entry(TASK, None, 0.0)))

    assert bare == {
        "id": TASK.id,
        "model": "house-model",
        "status": "queued",
        "created_at": 1_795_330_862,
        "updated_at": 1_795_330_866,
    }


def test_fields_come_in_the_contracts_order_and_nothing_is_overwritten_by_the_upstream() -> None:
    task = replace(TASK, state=TaskState.SUCCEEDED, fields=FIELDS)
    bare = orjson.loads(ark.SURFACE.render_entry(Entry(task, None, 0.0)))

    assert list(bare) == [
        "id",
        "model",
        "status",
        "content",
        "usage",
        "created_at",
        "updated_at",
        "seed",
        "duration",
    ]
    assert bare["id"] == TASK.id
    assert bare["status"] == "succeeded"
    assert b"q7w2" not in dump_json(shown(task))


def test_a_draft_is_named_only_by_our_own_id() -> None:
    ours = "cgt-20261122150102-bbbbbbbbbbbbbbbbbbbb"

    echo = {"model": "m", "content": [{"type": "draft_task", "draft_task": {"id": ours}}]}
    theirs = replace(TASK, fields={"draft_task_id": "cgt-20261122150102-q7w2y"})
    assert shown(theirs, echo)["draft_task_id"] == ours
    assert "draft_task_id" not in shown(theirs)


def test_states_of_ours_alone_are_shown_as_queued() -> None:
    for state in (TaskState.RESERVED, TaskState.UNKNOWN, TaskState.QUEUED):
        assert shown(replace(TASK, state=state))["status"] == "queued"


def test_a_failed_task_says_why() -> None:
    task = replace(TASK, state=TaskState.FAILED, error=TaskError("Code", "Words."))

    assert list(shown(task))[3] == "error"
    assert shown(task)["error"] == {"code": "Code", "message": "Words."}


def test_the_echo_is_the_stored_request_or_empty() -> None:
    content = [{"type": "text", "text": "a fox"}]

    assert shown(TASK, {"model": "house-model", "content": content, "duration": 5})["request"] == {
        "model": "house-model",
        "content": content,
    }
    assert shown(TASK)["request"] == {"model": "house-model", "content": []}
    assert shown(TASK)["message"] == "A message"


def test_an_answer_is_rendered_once_a_version_and_surface() -> None:
    entry = Entry(TASK, None, 0.0)
    body, etag = body_of(entry, SEEDANCE)

    assert body_of(entry, SEEDANCE)[0] is body
    assert etag.startswith('"2-')
    assert body_of(entry, ark.SURFACE)[1] != etag
    assert body_of(Entry(replace(TASK, version=3), None, 0.0), SEEDANCE)[1] != etag


def test_values_that_only_other_writers_make_are_still_json() -> None:
    assert dump_json({"seed": 2**70}) == b'{"seed":1180591620717411303424}'
    assert dump_json({"seed": 2**70, "a": "\ud800\u00e9"}).decode() == (
        '{"seed":1180591620717411303424,"a":"?\u00e9"}'
    )


def test_a_page_is_json_whatever_it_holds() -> None:
    assert orjson.loads(render_page(0, [])) == {"total": 0, "items": []}
    assert orjson.loads(render_page(7, [b'{"id":"a"}', b'{"id":"b"}'])) == {
        "total": 7,
        "items": [{"id": "a"}, {"id": "b"}],
    }


def test_a_kept_answer_weighs_its_own_bytes_and_no_buffer() -> None:
    value = {"text": "a" * 300}
    dump_json(value)
    tracemalloc.start()
    kept = [dump_json(value) for _ in range(1000)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert held < 1.5 * sum(len(body) for body in kept)
