"""What tests ask of a gateway over HTTP, and what they make its upstream say."""

from dataclasses import dataclass
from typing import Any

import httpx

from gateway.domain.tasks import Observation
from gateway.ports import Runtime
from gateway.services.observing import observe_due
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream

MODEL = "doubao-seedance-1-0-pro-250528"
SURFACES = (
    "/seedance/generations",
    "/v1/seedance/generations",
    "/api/v3/contents/generations/tasks",
)
BODY = {
    "model": MODEL,
    "content": [
        {"type": "text", "text": "Paper boats drift --resolution 480p --duration 5"},
        {"type": "image_url", "image_url": {"url": "https://img.example/boat.png"}},
    ],
}


@dataclass
class Keys:
    """Of project `default`, of another project, and one that is no longer good."""

    owner: str
    stranger: str
    revoked: str


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of an answer, which is in the vendor's envelope to the letter."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "param", "type"]
    request_id = response.headers["x-request-id"]
    assert body["error"]["message"].endswith(f". Request id: {request_id}")
    error: dict[str, Any] = body["error"]
    return error


async def submit(client: httpx.AsyncClient, surface: str = SURFACES[0]) -> str:
    """Submit the example; return the task's id."""
    response = await client.post(surface, json=BODY)
    assert response.status_code == 200, response.text
    task_id: str = response.json()["id"]
    return task_id


async def finish(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> None:
    """Let the observer see every task of the upstream succeed."""
    for upstream_task_id in upstream.shown:
        upstream.shown[upstream_task_id] = Observation(
            "succeeded",
            {
                "seed": 7,
                "content": {"video_url": "https://videos.example/v.mp4?sig=1"},
                "usage": {"completion_tokens": 49005, "total_tokens": 49005},
                "id": "up-secret",
                "draft_task_id": "cgt-20261122150102-abcde",
            },
        )
    await observe(runtime, upstream, clock)


async def observe(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock) -> None:
    """Let the observer look at what the upstream shows."""
    clock.advance(120)
    await observe_due(runtime, upstream, "default")
