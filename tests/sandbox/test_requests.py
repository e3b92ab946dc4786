"""What a create request may say: every rule of the contract, in the vendor's words."""

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.sandbox.models import FAMILIES, frame_size
from tests.sandbox.conftest import NO_LIMITS, Opener
from tests.sandbox.support import (
    AUDIO,
    IMAGE,
    LITE_I2V,
    PRO,
    SEEDANCE_2,
    SEEDANCE_25,
    VIDEO,
    Upstream,
    body,
    image,
    text,
)

LITE_T2V = "seedance-1-0-lite-t2v-250428"
PRO_15 = "seedance-1-5-pro-251215"
PRO_FAST = "seedance-1-0-pro-fast-251015"


def data_png(width: int, height: int) -> dict[str, object]:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    url = "data:image/png;base64," + base64.b64encode(head + bytes(64)).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def image_at(url: object) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


REFUSED = {
    "no model": ({"content": [text("a")]}, 400, "MissingParameter", "model"),
    "model null": ({"model": None, "content": [text("a")]}, 400, "MissingParameter", "model"),
    "model number": ({"model": 5, "content": [text("a")]}, 400, "InvalidParameter", "model"),
    "model wrong": (
        body(model="seedance-1-0-pro-250428"),
        404,
        "InvalidEndpointOrModel.NotFound",
        "",
    ),
    "no content": ({"model": PRO}, 400, "MissingParameter", "content"),
    "content empty": (body(content=[]), 400, "InvalidParameter", "content"),
    "content text": (body(content="a boat"), 400, "InvalidParameter", "content"),
    "item text": (body(content=["a boat"]), 400, "InvalidParameter", "content[0]"),
    "item type": (body(content=[{"type": "x"}]), 400, "InvalidParameter", "content[0].type"),
    "text empty": (body(content=[text("")]), 400, "InvalidParameter", "content[0].text"),
    "duration text": (body(duration="5"), 400, "InvalidParameter", "duration"),
    "duration boolean": (body(duration=True), 400, "InvalidParameter", "duration"),
    "duration float": (body(duration=5.0), 400, "InvalidParameter", "duration"),
    "duration long": (body(duration=13), 400, "InvalidParameter", "duration"),
    "duration short": (body(duration=1), 400, "InvalidParameter", "duration"),
    "duration open": (body(duration=-1), 400, "InvalidParameter", "duration"),
    "duration 2.0": (body(model=SEEDANCE_2, duration=16), 400, "InvalidParameter", "duration"),
    "frames odd": (body(frames=30), 400, "InvalidParameter", "frames"),
    "frames few": (body(frames=25), 400, "InvalidParameter", "frames"),
    "frames 2.0": (
        body(model=SEEDANCE_2, frames=57),
        400,
        "InvalidParameter.UnsupportedParameter",
        "frames",
    ),
    "resolution": (body(resolution="4k"), 400, "InvalidParameter", "resolution"),
    "resolution case": (body(resolution="480P"), 400, "InvalidParameter", "resolution"),
    "ratio": (body(ratio="2:1"), 400, "InvalidParameter", "ratio"),
    "ratio old": (body(ratio="9:21"), 400, "InvalidParameter", "ratio"),
    "ratio adaptive": (body(ratio="adaptive"), 400, "InvalidParameter", "ratio"),
    "seed": (body(seed=-2), 400, "InvalidParameter", "seed"),
    "seed large": (body(seed=2**32), 400, "InvalidParameter", "seed"),
    "camera": (body(camera_fixed="false"), 400, "InvalidParameter", "camera_fixed"),
    "watermark": (body(watermark=1), 400, "InvalidParameter", "watermark"),
    "tier": (body(service_tier="fast"), 400, "InvalidParameter", "service_tier"),
    "flex 2.0": (
        body(model=SEEDANCE_2, service_tier="flex"),
        400,
        "InvalidParameter.UnsupportedParameter",
        "service_tier",
    ),
    "expires": (
        body(execution_expires_after=60),
        400,
        "InvalidParameter",
        "execution_expires_after",
    ),
    "priority": (body(model=SEEDANCE_2, priority=10), 400, "InvalidParameter", "priority"),
    "priority 1.0": (
        body(priority=1),
        400,
        "InvalidParameter.UnsupportedParameter",
        "priority",
    ),
    "draft": (body(draft=True), 400, "InvalidParameter.UnsupportedParameter", "draft"),
    "draft size": (
        body(model=PRO_15, draft=True, resolution="720p"),
        400,
        "InvalidParameter",
        "resolution",
    ),
    "draft frame": (
        body(model=PRO_15, draft=True, return_last_frame=True),
        400,
        "InvalidParameter",
        "return_last_frame",
    ),
    "tools": (
        body(tools=[{"type": "web_search"}]),
        400,
        "InvalidParameter.UnsupportedParameter",
        "tools",
    ),
    "tool": (body(model=SEEDANCE_2, tools=[{"type": "x"}]), 400, "InvalidParameter", "tools"),
    "safety": (body(safety_identifier="x" * 65), 400, "InvalidParameter", "safety_identifier"),
    "mov": (
        body(output_format="mov"),
        400,
        "InvalidParameter.UnsupportedParameter",
        "output_format",
    ),
    "callback": (body(callback_url="ftp://x"), 400, "InvalidParameter", "callback_url"),
    "task type": (
        body(model=SEEDANCE_25, omni_reference_task_type="edit"),
        400,
        "InvalidParameter.TaskTypeConstraint",
        "omni_reference_task_type",
    ),
    "edit length": (
        body(
            model=SEEDANCE_25,
            omni_reference_task_type="edit",
            duration=5,
            content=[text("a"), VIDEO],
        ),
        400,
        "InvalidParameter.TaskTypeConstraint",
        "omni_reference_task_type",
    ),
    "2.5 ratio": (
        body(model=SEEDANCE_25, ratio="16:9", content=[text("a"), IMAGE]),
        400,
        "InvalidParameter",
        "ratio",
    ),
    "image string": (
        body(content=[{"type": "image_url", "image_url": "https://img.example/a.png"}]),
        400,
        "InvalidParameter",
        "content[0].image_url",
    ),
    "image empty": (
        body(content=[image_at("")]),
        400,
        "InvalidImageURL.EmptyURL",
        "content[0].image_url",
    ),
    "image scheme": (
        body(content=[image_at("file:///etc/passwd")]),
        400,
        "InvalidImageURL.InvalidFormat",
        "content[0].image_url",
    ),
    "image upper case": (
        body(content=[image_at("data:image/PNG;base64,AAAA")]),
        400,
        "InvalidImageURL.InvalidFormat",
        "content[0].image_url",
    ),
    "image not base64": (
        body(content=[image_at("data:image/png;base64,!!!!")]),
        400,
        "InvalidParameter",
        "content[0].image_url",
    ),
    "image small": (
        body(content=[data_png(299, 400)]),
        400,
        "InvalidParameter",
        "content[0].image_url",
    ),
    "image narrow": (
        body(content=[data_png(300, 800)]),
        400,
        "InvalidParameter",
        "content[0].image_url",
    ),
    "asset missing": (
        body(content=[image_at("asset://asset-missing-1")]),
        400,
        "InvalidParameter",
        "content[0].image_url",
    ),
    "role unknown": (
        body(content=[image("hero")]),
        400,
        "InvalidParameter",
        "content[0].role",
    ),
    "two without roles": (body(content=[IMAGE, IMAGE]), 400, "InvalidParameter", "content"),
    "two firsts": (
        body(content=[image("first_frame"), image("first_frame")]),
        400,
        "InvalidParameter",
        "content",
    ),
    "last alone": (body(content=[image("last_frame")]), 400, "InvalidParameter", "content"),
    "last on fast": (
        body(model=PRO_FAST, content=[image("first_frame"), image("last_frame")]),
        400,
        "InvalidParameter",
        "content",
    ),
    "references on pro": (
        body(content=[image("reference_image")]),
        400,
        "InvalidParameter",
        "content",
    ),
    "mixed": (
        body(model=SEEDANCE_2, content=[image("first_frame"), image("reference_image")]),
        400,
        "InvalidParameter",
        "content",
    ),
    "video on pro": (body(content=[text("a"), VIDEO]), 400, "InvalidParameter", "content"),
    "video data": (
        body(
            model=SEEDANCE_2,
            content=[{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}],
        ),
        400,
        "InvalidParameter",
        "content[0].video_url",
    ),
    "videos long": (
        body(model=SEEDANCE_2, content=[text("a"), VIDEO, VIDEO, VIDEO, VIDEO]),
        400,
        "InvalidParameter",
        "content",
    ),
    "audio alone": (
        body(model=SEEDANCE_2, content=[text("a"), AUDIO]),
        400,
        "InvalidParameter",
        "content",
    ),
    "image on t2v": (
        body(model=LITE_T2V, content=[text("a"), IMAGE]),
        400,
        "InvalidParameter",
        "content",
    ),
    "text on i2v": (body(model=LITE_I2V), 400, "InvalidParameter", "content"),
    "references 1080p": (
        body(model=LITE_I2V, resolution="1080p", content=[image("reference_image")]),
        400,
        "InvalidParameter",
        "resolution",
    ),
    "draft mixed": (
        body(
            model=PRO_15, content=[text("a"), {"type": "draft_task", "draft_task": {"id": "cgt"}}]
        ),
        400,
        "InvalidParameter",
        "content",
    ),
    "draft unknown": (
        body(model=PRO_15, content=[{"type": "draft_task", "draft_task": {"id": "cgt-1"}}]),
        404,
        "NotFound.TaskID",
        "task_id",
    ),
}


async def test_refuses_what_the_contract_refuses(upstream: Upstream) -> None:
    wrong = {}
    for name, (payload, status, code, param) in REFUSED.items():
        error = await upstream.refuse(payload)
        if (error["status"], error["code"], error["param"]) != (status, code, param):
            wrong[name] = error
        assert error["type"] == {400: "BadRequest", 404: "NotFound"}[status]

    assert wrong == {}
    assert (await upstream.truth())["creates"] == 0


ACCEPTED = {
    "nulls": body(duration=None, seed=None, callback_url=None, tools=None, draft=None),
    "unknown fields": body(fps=24, camerafixed=False, negative_prompt="rain", anything={"a": 1}),
    "any frame rate": body(framespersecond=999),
    "seed of 32 bits": body(seed=2**32 - 1),
    "seed on 2.0": body(model=SEEDANCE_2, seed=11, camera_fixed=True),
    "image without a role": body(content=[text("a"), IMAGE]),
    "image only": body(content=[IMAGE]),
    "image data": body(content=[data_png(300, 300)]),
    "asset": body(content=[image_at("asset://asset-1")]),
    "first and last": body(content=[image("first_frame"), image("last_frame")]),
    "adaptive with image": body(content=[IMAGE], ratio="adaptive"),
    "references": body(model=LITE_I2V, content=[image("reference_image")] * 4),
    "many references": body(model=SEEDANCE_2, content=[image("reference_image")] * 64),
    "everything 2.0": body(
        model=SEEDANCE_2,
        content=[text("a"), image("reference_image"), VIDEO, AUDIO],
        duration=-1,
        priority=9,
        tools=[{"type": "web_search"}],
        generate_audio=False,
    ),
    "audio alone 2.5": body(model=SEEDANCE_25, content=[text("a"), AUDIO]),
    "edit": body(
        model=SEEDANCE_25, content=[text("a"), VIDEO], omni_reference_task_type="edit", duration=-1
    ),
    "mov": body(model=SEEDANCE_25, output_format="mov"),
    "flex": body(service_tier="flex"),
    "draft": body(model=PRO_15, draft=True),
}


async def test_accepts_what_the_contract_accepts(upstream: Upstream) -> None:
    refused = {}
    for name, payload in ACCEPTED.items():
        answer = await upstream.post(payload)
        if answer.status_code != 200:
            refused[name] = answer.text

    assert refused == {}


@pytest.mark.parametrize("prefix", ["", "doubao-", "dreamina-"])
async def test_knows_every_family_under_every_prefix(upstream: Upstream, prefix: str) -> None:
    for model_id, family in FAMILIES.items():
        content = [text("a")] if family.text else [text("a"), IMAGE]
        model = prefix + model_id
        task_id = await upstream.create(model=model, content=content)
        assert (await upstream.get(task_id))["model"] == model


async def test_names_model_and_mode_as_the_vendor_does(upstream: Upstream) -> None:
    error = await upstream.refuse(body(content=[text("a"), IMAGE], duration=99))

    assert error["message"].startswith(
        "the parameter duration specified in the request is not valid"
        " for model doubao-seedance-1-0-pro in i2v. Request id: 02"
    )


async def test_says_that_roles_are_missing(upstream: Upstream) -> None:
    error = await upstream.refuse(body(content=[IMAGE, IMAGE]))

    assert "role must be specified for image contents" in error["message"]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"model": 1e999}']
)
async def test_survives_a_body_that_is_no_request(upstream: Upstream, raw: bytes) -> None:
    answer = await upstream.http.post("/api/v3/contents/generations/tasks", content=raw)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "BadRequest"


def measures(shown: Mapping[str, Any]) -> tuple[object, ...]:
    return shown["resolution"], shown["ratio"], shown.get("duration"), shown.get("frames")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a fox --rs 480p --rt 9:16 --dur 7", ("480p", "9:16", 7, None)),
        ("a fox --resolution 720p --ratio 1:1 --duration 10", ("720p", "1:1", 10, None)),
        ("--rs 480p a fox in the middle --dur 3 at dusk", ("480p", "16:9", 3, None)),
        ("a fox --frames 57", ("1080p", "16:9", None, 57)),
        ("a fox --rs 8k --dur long --rt 5:5", ("1080p", "16:9", 5, None)),
        ("a fox -- rs 480p --unknown 5", ("480p", "16:9", 5, None)),
        ("a fox --rt 9:21 --rs 480p", ("480p", "9:21", 5, None)),
        ("a fox --rt keep_ratio", ("1080p", "16:9", 5, None)),
        ("a fox --dur", ("1080p", "16:9", 5, None)),
    ],
)
async def test_reads_commands_weakly(
    upstream: Upstream, words: str, expected: tuple[object, ...]
) -> None:
    assert measures(await upstream.finish(words)) == expected


async def test_a_body_field_wins_over_a_command(upstream: Upstream) -> None:
    shown = await upstream.finish("a fox --rs 720p --dur 8", resolution="480p")

    assert measures(shown) == ("480p", "16:9", 8, None)


async def test_can_refuse_wrong_commands_instead(open_upstream: Opener) -> None:
    async with open_upstream(weak_commands="error") as upstream:
        error = await upstream.refuse(body("a fox --dur 99"))
        assert (error["status"], error["param"]) == (400, "duration")
        assert measures(await upstream.finish("a fox --dur 9"))[2] == 9


async def test_bills_every_size_by_its_frames(open_upstream: Opener) -> None:
    async with open_upstream(limits=NO_LIMITS) as upstream:
        expected = {}
        for model_id, family in FAMILIES.items():
            content = [text("a")] if family.text else [image("reference_image")]
            for resolution in family.resolutions:
                if not family.text and resolution == "1080p":
                    continue
                for ratio in ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9"):
                    task_id = await upstream.create(
                        model=model_id,
                        content=content,
                        resolution=resolution,
                        ratio=ratio,
                        duration=5,
                    )
                    width, height = frame_size(resolution, family.era, ratio)
                    expected[task_id] = width * height * 121 // 1024
        await upstream.advance(80_000)
        tasks = (await upstream.truth())["tasks"]

    assert {task["id"]: task["completion_tokens"] for task in tasks} == expected
    assert all(task["billed"] for task in tasks)


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"model": PRO, "resolution": "1080p", "ratio": "16:9"}, 246_840),
        ({"model": SEEDANCE_2, "ratio": "16:9", "duration": 5}, 108_900),
        ({"model": SEEDANCE_2, "resolution": "480p", "ratio": "16:9", "duration": 5}, 50_638),
        ({"model": "doubao-seedance-2-0-fast-260128", "ratio": "16:9", "duration": 4}, 87_300),
        ({"model": PRO_15, "draft": True, "ratio": "16:9"}, 50_638 * 60 // 100),
        (
            {"model": PRO_15, "draft": True, "ratio": "16:9", "generate_audio": False},
            50_638 * 70 // 100,
        ),
        (
            {"model": SEEDANCE_2, "ratio": "16:9", "duration": 5, "content": [text("a"), VIDEO]},
            1280 * 720 * (24 * 9 + 1) // 1024,
        ),
    ],
)
async def test_reports_the_published_samples(
    upstream: Upstream, fields: dict[str, object], tokens: int
) -> None:
    shown = await upstream.finish("a boat", **fields)

    assert shown["usage"]["completion_tokens"] == tokens


async def test_completes_a_draft_at_its_full_size(upstream: Upstream) -> None:
    draft = await upstream.finish(model=PRO_15, draft=True, ratio="9:16", duration=7)
    step = [{"type": "draft_task", "draft_task": {"id": draft["id"]}}]

    done = await upstream.finish(model=PRO_15, content=step, resolution="1080p")
    reused = await upstream.refuse(body(model=PRO_15, content=step, duration=7))
    foreign = await upstream.refuse(body(model=SEEDANCE_25, content=step))

    assert draft["draft"] is True
    assert done["draft_task_id"] == draft["id"]
    assert measures(done) == ("1080p", "9:16", 7, None)
    assert done["seed"] == draft["seed"]
    assert reused["param"] == "duration"
    assert foreign["status"] == 400


async def test_a_search_tool_shows_in_the_usage(upstream: Upstream) -> None:
    shown = await upstream.finish(model=SEEDANCE_2, tools=[{"type": "web_search"}])

    assert 1 <= shown["usage"]["tool_usage"]["web_search"] <= 3
    assert shown["tools"] == [{"type": "web_search"}]


async def test_echoes_what_marks_a_request(upstream: Upstream) -> None:
    payload = body(seed=4242, safety_identifier="user-7")
    answer = await upstream.post(payload)
    queued = await upstream.get(answer.json()["id"])

    assert answer.json()["safety_identifier"] == "user-7"
    assert (queued["seed"], queued["safety_identifier"]) == (4242, "user-7")


async def test_the_truth_holds_hashes_not_prompts(upstream: Upstream) -> None:
    await upstream.create("a secret prompt", safety_identifier="user-7", seed=9)
    truth = await upstream.truth()

    assert "a secret prompt" not in json.dumps(truth)
    (task,) = truth["tasks"]
    assert (task["safety_identifier"], task["asked_seed"]) == ("user-7", 9)
    assert len(task["prompt_hash"]) == len(task["request_hash"]) == 64
