"""Real media of the right size and length, made without an encoder.

A film is one packaged H.264 still: a key frame, then pictures that repeat it, in a container whose
tables are written for the length asked for.
"""

import struct
import zlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from gateway.sandbox.models import FPS, Size

_START_CODE: Final = b"\x00\x00\x00\x01"
_NAL_SLICE: Final = 1
_NAL_KEY: Final = 5
_NAL_SPS: Final = 7
_NAL_PPS: Final = 8
_UNIT: Final = b"".join(
    struct.pack(">i", value) for value in (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
)
"""The identity matrix of the container's headers."""


@dataclass(frozen=True, slots=True)
class Still:
    """A picture as H.264: parameter sets, the key frame, and one cycle of frames that repeat it."""

    size: Size
    sps: bytes
    pps: bytes
    key: bytes
    repeats: tuple[bytes, ...]


def load_still(size: Size) -> Still:
    """Return the packaged still of a frame size.

    Raises:
        FileNotFoundError: the size is in no table; scripts/make_stills.py makes the files.
    """
    name = f"{size[0]}x{size[1]}.h264"
    return parse_still(size, (files("gateway.sandbox") / "stills" / name).read_bytes())


def parse_still(size: Size, stream: bytes) -> Still:
    """Return the still in an Annex B byte stream of one NAL unit a frame."""
    units: dict[int, list[bytes]] = {}
    for chunk in stream.replace(_START_CODE, _START_CODE[1:]).split(_START_CODE[1:]):
        if chunk:
            units.setdefault(chunk[0] & 31, []).append(chunk)
    (sps,), (pps,), (key,) = units[_NAL_SPS], units[_NAL_PPS], units[_NAL_KEY]
    return Still(size, sps, pps, key, tuple(units[_NAL_SLICE]))


def make_film(still: Still, frames: int, *, is_mov: bool = False) -> bytes:
    """Return an MP4 (or MOV) file of `frames` pictures at 24 a second, its index first."""
    samples = [_sized(still.key)]
    cycle = [_sized(unit) for unit in still.repeats]
    samples += [cycle[index % len(cycle)] for index in range(frames - 1)]
    brands = b"qt  \0\0\2\0qt  " if is_mov else b"isom\0\0\2\0isomavc1mp41"
    head = _box(b"ftyp", brands)
    # The index holds the offset of the data, and its own length does not depend on the value.
    moov_length = len(_moov(still, samples, 0))
    moov = _moov(still, samples, len(head) + moov_length + 8)
    return head + moov + _box(b"mdat", *samples)


def make_picture(size: Size) -> bytes:
    """Return a PNG of one grey, one bit a pixel."""
    width, height = size
    row = b"\0" + bytes((width + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", header),
            _chunk(b"PLTE", bytes((32, 48, 74, 255, 255, 255))),
            _chunk(b"IDAT", zlib.compress(row * height, 6)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _sized(unit: bytes) -> bytes:
    return struct.pack(">I", len(unit)) + unit


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full_box(kind: bytes, flags: int, *parts: bytes) -> bytes:
    """Return a box with version 0 and flags, as ISO 14496-12 defines it."""
    return _box(kind, struct.pack(">I", flags), *parts)


def _moov(still: Still, samples: list[bytes], data_offset: int) -> bytes:
    width, height = still.size
    frames = len(samples)
    mvhd = _full_box(
        b"mvhd",
        0,
        struct.pack(">IIIIIHxx8x", 0, 0, FPS, frames, 0x10000, 0x100),
        _UNIT,
        struct.pack(">24xI", 2),
    )
    tkhd = _full_box(
        b"tkhd",
        3,
        struct.pack(">IIIxxxxI8xhhhxx", 0, 0, 1, frames, 0, 0, 0),
        _UNIT,
        struct.pack(">II", width << 16, height << 16),
    )
    mdhd = _full_box(b"mdhd", 0, struct.pack(">IIIIHxx", 0, 0, FPS, frames, 0x55C4))
    hdlr = _full_box(b"hdlr", 0, struct.pack(">I4s12x", 0, b"vide"), b"VideoHandler\0")
    media = _box(b"mdia", mdhd, hdlr, _minf(still, samples, data_offset))
    return _box(b"moov", mvhd, _box(b"trak", tkhd, media))


def _minf(still: Still, samples: list[bytes], data_offset: int) -> bytes:
    dref = _full_box(b"dref", 0, struct.pack(">I", 1), _full_box(b"url ", 1))
    return _box(
        b"minf",
        _full_box(b"vmhd", 1, bytes(8)),
        _box(b"dinf", dref),
        _box(
            b"stbl",
            _full_box(b"stsd", 0, struct.pack(">I", 1), _avc1(still)),
            _full_box(b"stts", 0, struct.pack(">III", 1, len(samples), 1)),
            _full_box(b"stss", 0, struct.pack(">II", 1, 1)),
            _full_box(b"stsc", 0, struct.pack(">IIII", 1, 1, len(samples), 1)),
            _full_box(
                b"stsz",
                0,
                struct.pack(">II", 0, len(samples)),
                b"".join(struct.pack(">I", len(sample)) for sample in samples),
            ),
            _full_box(b"stco", 0, struct.pack(">II", 1, data_offset)),
        ),
    )


def _avc1(still: Still) -> bytes:
    """Return the sample entry with the decoder's configuration (ISO 14496-15)."""
    width, height = still.size
    profile = still.sps[1:4]
    extension = b"\xfd\xf8\xf8\x00" if profile[0] >= 100 else b""
    avcc = _box(
        b"avcC",
        b"\x01" + profile + b"\xff\xe1",
        struct.pack(">H", len(still.sps)) + still.sps,
        b"\x01" + struct.pack(">H", len(still.pps)) + still.pps,
        extension,
    )
    return _box(
        b"avc1",
        struct.pack(">6xH16xHHIIxxxxH32xHh", 1, width, height, 72 << 16, 72 << 16, 1, 24, -1),
        avcc,
    )
