"""The request that the published page shows, and every value that it lists."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support import published
from tests.support.captured import QUERY_MARK
from tests.support.films import read_film
from tests.support.gateway import Gateway, JsonObject, wait_for_end

SEED = 4_100
SIZES_480P = {
    "21:9": (960, 416),
    "16:9": (864, 480),
    "4:3": (736, 544),
    "1:1": (640, 640),
    "3:4": (544, 736),
    "9:16": (480, 864),
}
"""Frames of the 1.0 models. With an image and no ratio, the upstream chooses."""


@pytest.fixture(scope="session")
def finished(gateway: Gateway) -> JsonObject:
    """The published body's task, once it has ended."""
    with gateway.open_client() as client:
        answer = client.post("/seedance/generations", json=published.BODY)
        assert answer.status_code == 200, answer.text
        task_id = answer.json()["id"]
        return wait_for_end(client, f"/seedance/generations/{task_id}")


@pytest.fixture(scope="session")
def video(finished: JsonObject) -> bytes:
    content = finished["content"]
    assert isinstance(content, dict)
    answer = httpx.get(content["video_url"], trust_env=False).raise_for_status()
    assert answer.headers["content-type"] == "video/mp4"
    return answer.content


def test_the_answer_to_the_submit_is_an_id_and_a_message(client: httpx.Client) -> None:
    answer = client.post("/v1/seedance/generations", json=published.BODY)

    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "message"}
    assert answer.json()["id"].startswith("cgt-")


def test_the_task_succeeds_and_echoes_the_normalized_request(finished: JsonObject) -> None:
    assert finished["status"] == "succeeded"
    assert (finished["resolution"], finished["duration"]) == ("480p", 5)
    assert finished["message"]
    request = finished["request"]
    assert isinstance(request, dict)
    assert request["model"] == published.MODEL
    text, image = request["content"]
    assert text == {"type": "text", "text": published.PROMPT}
    url = image["image_url"]["url"]
    assert published.IMAGE_URL.startswith(url)
    assert QUERY_MARK not in url, "a signed query is of no use once the task has ended"


def test_the_video_is_a_film_of_the_right_size_and_length(
    finished: JsonObject, video: bytes
) -> None:
    film = read_film(video)
    width, height = SIZES_480P[str(finished["ratio"])]

    assert film.codec == "avc1"
    assert film.top[0] == "ftyp"
    assert set(film.top) >= {"ftyp", "moov", "mdat"}
    assert (film.width, film.height) == (width, height)
    assert film.duration_s == pytest.approx(5, abs=0.1)
    assert film.frame_count == 121
    usage = finished["usage"]
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == width * height * film.frame_count // 1024


def test_the_video_decodes_without_an_error(
    finished: JsonObject, video: bytes, tmp_path: Path
) -> None:
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed: only the boxes were looked at")
    path = tmp_path / "film.mp4"
    path.write_bytes(video)

    shown = ["-show_entries", "stream=width,height,nb_read_frames,codec_name", "-of", "json"]
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", *shown, str(path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert probe.stderr == ""
    (stream,) = json.loads(probe.stdout)["streams"]
    width, height = SIZES_480P[str(finished["ratio"])]
    assert stream == {
        "codec_name": "h264",
        "width": width,
        "height": height,
        "nb_read_frames": "121",
    }


@pytest.mark.parametrize("number", range(len(published.VALUES)), ids=published.VALUES.__getitem__)
def test_every_published_value_is_accepted_and_meant(
    gateway: Gateway, client: httpx.Client, number: int
) -> None:
    words = published.VALUES[number]
    body = published.make_body(f"{published.AT_ONCE} {words} --seed {SEED + number}")
    if words.endswith(("keep_ratio", "adaptive")):
        body["content"] = [*body["content"], published.IMAGE]  # type: ignore[misc]  # a list

    answer = client.post("/seedance/generations", json=body)

    assert answer.status_code == 200, answer.text
    made = find_made(gateway, SEED + number)
    name, value = words.removeprefix("--").split()
    match name:
        case "duration":
            assert made["duration"] == int(value)
        case "resolution":
            assert made["resolution"] == value
        case "ratio" if value in {"keep_ratio", "adaptive"}:
            assert made["ratio"] in SIZES_480P
        case "ratio":
            assert made["ratio"] == value
        case "camerafixed":
            shown = client.get(f"/seedance/generations/{answer.json()['id']}").json()
            assert "camerafixed" not in shown["request"]["content"][0]["text"]


def find_made(gateway: Gateway, seed: int) -> JsonObject:
    """Return what the sandbox knows of the task with this seed."""
    tasks = gateway.read_truth()["tasks"]
    assert isinstance(tasks, list)
    (made,) = [task for task in tasks if task["seed"] == seed]
    assert isinstance(made, dict)
    return made
