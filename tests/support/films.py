"""Reads an MP4 file far enough to say that a player can play it."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_FOLDERS: Final = frozenset({"moov", "trak", "mdia", "minf", "stbl"})
_SAMPLE_ENTRY_SIZE: Final = struct.Struct(">32xHH")


@dataclass(frozen=True, slots=True)
class Film:
    """What the index of a film says. `top` names its outermost boxes, in order."""

    top: tuple[str, ...]
    codec: str
    width: int
    height: int
    duration_s: float
    frame_count: int


def read_film(data: bytes) -> Film:
    """Return what a film's index says.

    Raises: ValueError if boxes are missing, or if the index does not fit the data.
    """
    boxes = dict(_walk(data, 0, len(data)))
    missing = {"ftyp", "moov/mvhd", "mdat", _TABLE + "stsd", _TABLE + "stsz"} - set(boxes)
    if missing:
        raise ValueError(f"boxes are missing: {sorted(missing)}")
    timescale, duration = struct.unpack_from(">12xII", boxes["moov/mvhd"])
    entry = boxes[_TABLE + "stsd"][8:]
    width, height = _SAMPLE_ENTRY_SIZE.unpack_from(entry)
    same_size, frame_count = struct.unpack_from(">4xII", boxes[_TABLE + "stsz"])
    sizes = (
        (same_size,) * frame_count
        if same_size
        else struct.unpack_from(f">12x{frame_count}I", boxes[_TABLE + "stsz"])
    )
    if sum(sizes) > len(boxes["mdat"]):
        raise ValueError("the index asks for more than there is")
    (first_offset,) = struct.unpack_from(">8xI", boxes[_TABLE + "stco"])
    if data[first_offset : first_offset + sizes[0]] not in boxes["mdat"]:
        raise ValueError("the first frame is not where the index says")
    return Film(
        top=tuple(name for name in boxes if "/" not in name),
        codec=entry[4:8].decode("ascii"),
        width=width,
        height=height,
        duration_s=duration / timescale,
        frame_count=frame_count,
    )


_TABLE: Final = "moov/trak/mdia/minf/stbl/"


def _walk(data: bytes, start: int, end: int, path: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield every box by its path, the first track's only."""
    while start < end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if not 8 <= length <= end - start:
            raise ValueError(f"a box of {length} bytes at {start} does not fit")
        name = kind.decode("latin-1")
        yield path + name, data[start + 8 : start + length]
        if name in _FOLDERS:
            yield from _walk(data, start + 8, start + length, f"{path}{name}/")
        start += length
