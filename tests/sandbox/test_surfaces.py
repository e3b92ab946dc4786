"""The reseller's surface, and the profiles."""

import json

import pytest

from gateway.sandbox.settings import PROFILES, SandboxSettings
from tests.sandbox.conftest import Opener
from tests.sandbox.support import ARK, SEEDANCE, Upstream, body, image, text


@pytest.mark.parametrize("base", [SEEDANCE, f"/v1{SEEDANCE}"])
async def test_the_seedance_surface_adds_message_and_request(upstream: Upstream, base: str) -> None:
    data = "data:image/png;base64," + "A" * 4000
    content = [text("boats"), {"type": "image_url", "image_url": {"url": data}}]
    created = await upstream.post(body(content=content), base)
    task_id = created.json()["id"]
    await upstream.advance(3000)
    shown = (await upstream.http.get(f"{base}/{task_id}")).json()

    assert created.json() == {"id": task_id, "message": "Seedance Video Generation - Submit"}
    assert shown["message"] == "Seedance Video Generation - Submit"
    assert shown["status"] == "succeeded"
    assert shown["request"]["model"] == shown["model"]
    assert shown["request"]["content"][0] == text("boats")
    assert "AAAAAAAAAAAAAAAAAAAAAAAA" not in json.dumps(shown["request"])
    assert set(await upstream.get(task_id)) == set(shown) - {"message", "request"}


async def test_the_seedance_surface_has_no_list_and_no_delete(upstream: Upstream) -> None:
    task_id = (await upstream.post(body(), SEEDANCE)).json()["id"]

    for method, path in (("GET", SEEDANCE), ("DELETE", f"{SEEDANCE}/{task_id}")):
        answer = await upstream.http.request(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "NotFound"


async def test_a_profile_gives_it_both(open_upstream: Opener) -> None:
    async with open_upstream(profiles=("full_seedance",)) as upstream:
        task_id = (await upstream.post(body(), SEEDANCE)).json()["id"]

        assert (await upstream.http.get(SEEDANCE)).json()["total"] == 1
        assert (await upstream.http.delete(f"{SEEDANCE}/{task_id}")).json() == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v3/models", 404),
        ("GET", f"{ARK}x", 404),
        ("PUT", ARK, 405),
        ("DELETE", ARK, 405),
        ("PATCH", f"{ARK}/cgt-1", 405),
        ("POST", "/_sandbox/videos/x.mp4", 405),
    ],
)
async def test_other_paths_and_methods_get_the_vendors_envelope(
    upstream: Upstream, method: str, path: str, status: int
) -> None:
    answer = await upstream.http.request(method, path)

    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"code", "message", "param", "type"}


async def test_list_lag_hides_new_tasks_from_lists_only(open_upstream: Opener) -> None:
    async with open_upstream(profiles=("list_lag=20",)) as upstream:
        task_id = await upstream.create()

        assert (await upstream.list())["total"] == 0
        assert await upstream.status(task_id) == "queued"
        await upstream.advance(21)
        assert (await upstream.list())["total"] == 1


@pytest.mark.parametrize(
    ("profile", "in_create", "while_queued", "in_the_end"),
    [
        ((), True, {"seed", "safety_identifier"}, {"seed", "safety_identifier"}),
        (("partial_echo",), False, set(), {"seed", "safety_identifier"}),
        (("no_echo",), False, set(), set()),
    ],
)
async def test_echoes_as_the_profile_says(
    open_upstream: Opener,
    profile: tuple[str, ...],
    in_create: bool,  # noqa: FBT001  # a column of the table
    while_queued: set[str],
    in_the_end: set[str],
) -> None:
    marks = {"seed", "safety_identifier"}
    async with open_upstream(profiles=profile) as upstream:
        answer = await upstream.post(body(seed=1, safety_identifier="u"))
        task_id = answer.json()["id"]
        queued = await upstream.get(task_id)
        await upstream.advance(3000)
        done = await upstream.get(task_id)
        (truth,) = (await upstream.truth())["tasks"]

    assert ("safety_identifier" in answer.json()) is in_create
    assert marks & set(queued) == while_queued
    assert marks & set(done) == in_the_end
    assert (truth["seed"], truth["safety_identifier"]) == (1, "u")


async def test_no_list_has_no_list(open_upstream: Opener) -> None:
    async with open_upstream(profiles=("no_list",)) as upstream:
        await upstream.create()
        assert (await upstream.http.get(ARK)).status_code == 404
        assert (await upstream.truth())["reads"]["list"] == 0


async def test_tier_filter_lists_the_default_tier_unless_asked(open_upstream: Opener) -> None:
    async with open_upstream(profiles=("tier_filter",)) as upstream:
        await upstream.create(service_tier="flex")
        normal = await upstream.create()

        assert [item["id"] for item in (await upstream.list())["items"]] == [normal]
        assert (await upstream.list("?filter.service_tier=flex"))["total"] == 1


async def test_a_reseller_wraps_errors_and_answers_201(open_upstream: Opener) -> None:
    async with open_upstream(profiles=("reseller=201",)) as upstream:
        created = await upstream.post(body(), SEEDANCE)
        running = await upstream.http.get(f"{SEEDANCE}/{created.json()['id']}")
        refused = await upstream.post(body(duration=99), SEEDANCE)
        missing = await upstream.http.get(f"{SEEDANCE}/cgt-x")
        anonymous = await upstream.http.post(SEEDANCE, json=body(), headers={"authorization": ""})

    assert created.status_code == 201
    assert running.json()["content"] == {}
    assert running.json()["usage"] == {"completion_tokens": 0, "total_tokens": 0}
    assert (refused.status_code, missing.status_code) == (400, 404)
    assert refused.json()["code"] == "fail_to_fetch_task"
    assert refused.json()["data"] is None
    nested = json.loads(refused.json()["message"])
    assert nested["error"]["param"] == "duration"
    assert anonymous.json()["error"]["type"] == "new_api_error"


@pytest.mark.parametrize("profile", ["unknown", "no_echo=1", "list_lag=x", "reseller=500"])
def test_refuses_a_profile_that_it_does_not_know(settings: SandboxSettings, profile: str) -> None:
    with pytest.raises(ValueError, match="profile"):
        SandboxSettings(data_dir=settings.data_dir, profiles=(profile,))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_refuses_a_time_scale_that_stops_time(settings: SandboxSettings, scale: float) -> None:
    with pytest.raises(ValueError, match="time_scale"):
        SandboxSettings(data_dir=settings.data_dir, time_scale=scale)


async def test_every_profile_starts(open_upstream: Opener) -> None:
    async with open_upstream(profiles=PROFILES) as upstream:
        await upstream.create(content=[text("a"), image("first_frame")])
        health = (await upstream.http.get("/_sandbox/health")).json()

    assert health["profiles"] == list(PROFILES)
    assert health["status"] == "ok"
