"""The films and pictures behind the links."""

import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sandbox.media import load_still, make_film, make_picture
from gateway.sandbox.models import FAMILIES, Size, all_frame_sizes, frame_size
from tests.sandbox.support import SEEDANCE_2, SEEDANCE_25, Upstream

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
STILLS_BYTES_MAX = 600_000


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of every box's content, those inside containers too."""
    end = len(data) if end is None else end
    while start < end:
        length, kind = struct.unpack_from(">I4s", data, start)
        assert length >= 8
        assert start + length <= end
        yield kind, start + 8, start + length
        if kind in CONTAINERS:
            yield from boxes(data, start + 8, start + length)
        start += length


def content(data: bytes, kind: bytes) -> bytes:
    ((start, end),) = [(start, end) for each, start, end in boxes(data) if each == kind]
    return data[start:end]


def samples(film: bytes) -> list[bytes]:
    """Return the pictures as the tables find them."""
    sizes = struct.unpack(
        f">{(len(content(film, b'stsz')) - 12) // 4}I", content(film, b"stsz")[12:]
    )
    (offset,) = struct.unpack(">I", content(film, b"stco")[8:])
    found = []
    for size in sizes:
        found.append(film[offset : offset + size])
        offset += size
    return found


@pytest.mark.parametrize("frames", [49, 121, 721])
@pytest.mark.parametrize("size", [(864, 480), (630, 1470), (4398, 1886)])
def test_a_film_is_well_formed(size: Size, frames: int) -> None:
    film = make_film(load_still(size), frames)

    assert [kind for kind, _, _ in boxes(film) if kind in {b"ftyp", b"moov", b"mdat"}] == [
        b"ftyp",
        b"moov",
        b"mdat",
    ]
    timescale, duration = struct.unpack_from(">II", content(film, b"mvhd"), 12)
    assert duration / timescale == frames / 24
    assert struct.unpack(">II", content(film, b"tkhd")[-8:]) == (size[0] << 16, size[1] << 16)
    assert struct.unpack(">IIII", content(film, b"stts")) == (0, 1, frames, 1)
    pictures = samples(film)
    assert len(pictures) == frames
    assert b"".join(pictures) == content(film, b"mdat")
    for index, picture in enumerate(pictures):
        assert struct.unpack_from(">I", picture)[0] == len(picture) - 4
        assert picture[4] & 31 == (1 if index else 5)
    # The frame numbers in the pictures count modulo 16, so the cycle has to be kept.
    repeats = load_still(size).repeats
    assert [each[4:] for each in pictures[1:]] == [repeats[n % 16] for n in range(frames - 1)]
    assert len(set(repeats)) == 16


def test_every_size_of_every_family_has_its_still() -> None:
    wanted = {
        frame_size(resolution, family.era, ratio)
        for family in FAMILIES.values()
        for resolution in family.resolutions
        for ratio in ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21")
    }

    assert wanted <= set(all_frame_sizes())
    for size in all_frame_sizes():
        assert len(load_still(size).repeats) == 16


def test_the_stills_are_small() -> None:
    folder = Path(__file__).parents[2] / "gateway/sandbox/stills"

    assert sum(path.stat().st_size for path in folder.iterdir()) < STILLS_BYTES_MAX


def test_a_picture_has_its_size() -> None:
    picture = make_picture((1470, 630))
    start = picture.index(b"IDAT")
    (length,) = struct.unpack_from(">I", picture, start - 4)
    rows = zlib.decompress(picture[start + 4 : start + 4 + length])

    assert struct.unpack_from(">II", picture, 16) == (1470, 630)
    assert len(rows) == 630 * (1 + (1470 + 7) // 8)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
@pytest.mark.parametrize(
    ("size", "frames", "is_mov"),
    [((864, 480), 121, False), ((1470, 630), 49, True), ((630, 1470), 73, False)],
)
def test_a_decoder_reads_every_picture(
    tmp_path: Path, size: Size, frames: int, *, is_mov: bool
) -> None:
    path = tmp_path / "film"
    path.write_bytes(make_film(load_still(size), frames, is_mov=is_mov))
    fields = "stream=codec_name,width,height,nb_frames,nb_read_frames,r_frame_rate,duration"
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-count_frames", "-show_entries", fields, "-of", "json", path],
        check=True,
        capture_output=True,
    )

    (stream,) = json.loads(probe.stdout)["streams"]
    assert probe.stderr == b""
    assert stream["codec_name"] == "h264"
    assert (stream["width"], stream["height"]) == size
    assert int(stream["nb_frames"]) == int(stream["nb_read_frames"]) == frames
    assert stream["r_frame_rate"] == "24/1"
    assert float(stream["duration"]) == pytest.approx(frames / 24, abs=1e-3)


async def fetch(upstream: Upstream, url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    del upstream.http.headers["authorization"]
    answer = await upstream.http.get(url, headers=headers)
    return answer.status_code, answer.content, dict(answer.headers)


async def test_serves_the_film_that_the_task_tells_of(upstream: Upstream) -> None:
    shown = await upstream.finish(resolution="480p", ratio="21:9", duration=3)

    status, film, headers = await fetch(upstream, shown["content"]["video_url"])

    assert status == 200
    assert headers["content-type"] == "video/mp4"
    assert film == make_film(load_still((960, 416)), 73)


async def test_serves_the_last_frame_and_mov(upstream: Upstream) -> None:
    shown = await upstream.finish(
        model=SEEDANCE_25, return_last_frame=True, output_format="mov", duration=4, ratio="1:1"
    )

    links = shown["content"]
    status, film, headers = await fetch(upstream, links["video_url"])
    picture = await upstream.http.get(links["last_frame_url"])

    assert (status, headers["content-type"]) == (200, "video/quicktime")
    assert film[4:12] == b"ftypqt  "
    assert picture.headers["content-type"] == "image/png"
    assert struct.unpack_from(">II", picture.content, 16) == (960, 960)


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=0-99999999", 206, slice(0, None)),
        ("bytes=5-2", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_serves_ranges(upstream: Upstream, wanted: str, status: int, part: slice) -> None:
    shown = await upstream.finish(resolution="480p", ratio="16:9")
    film = make_film(load_still((864, 480)), 121)

    found, body, headers = await fetch(upstream, shown["content"]["video_url"], range=wanted)

    assert (found, body) == (status, film[part])
    if status == 206:
        first = len(film[: part.indices(len(film))[0]])
        assert headers["content-range"] == f"bytes {first}-{first + len(body) - 1}/{len(film)}"


async def test_refuses_a_range_behind_the_end(upstream: Upstream) -> None:
    shown = await upstream.finish(resolution="480p", ratio="16:9")

    status, _, headers = await fetch(
        upstream, shown["content"]["video_url"], range="bytes=9999999-"
    )

    assert status == 416
    assert headers["content-range"].startswith("bytes */")


async def test_answers_head_without_a_body(upstream: Upstream) -> None:
    shown = await upstream.finish(resolution="480p", ratio="16:9")
    del upstream.http.headers["authorization"]

    head = await upstream.http.head(shown["content"]["video_url"])
    whole = await upstream.http.get(shown["content"]["video_url"])

    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == str(len(whole.content))


async def test_a_link_is_good_for_a_day_and_for_its_own_file(upstream: Upstream) -> None:
    shown = await upstream.finish(model=SEEDANCE_2, return_last_frame=True)
    url = shown["content"]["video_url"]

    with_key = await upstream.http.get(url)
    assert (await fetch(upstream, url))[0] == 200
    forged = {
        "signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "longer": url.replace("Expires=86400", "Expires=864000"),
        "other file": url.replace(".mp4", ".png"),
        "bare": url.partition("?")[0],
    }
    for name, link in forged.items():
        answer = await upstream.http.get(link)
        assert (name, answer.status_code) == (name, 403)
    await upstream.advance(86_400 - 3000 - 200)
    assert (await upstream.http.get(url)).status_code == 200
    await upstream.advance(3200)
    expired = await upstream.http.get(url)

    assert with_key.status_code == 400
    assert expired.status_code == 403
    assert b"AccessDenied" in expired.content


async def test_a_deleted_task_has_no_film(upstream: Upstream) -> None:
    shown = await upstream.finish()
    await upstream.delete(shown["id"])

    assert (await fetch(upstream, shown["content"]["video_url"]))[0] == 404
