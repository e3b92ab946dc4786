"""Make the packaged stills of the sandbox: one small H.264 stream per frame size.

Needs ffmpeg with libx264, on the developer's machine only:

    python scripts/make_stills.py

Each file holds one key frame and sixteen frames that repeat it. Sixteen, because the frame numbers
in the slices count modulo 16: after them the cycle begins again, for as long as the film lasts.
"""

import subprocess
import sys
from pathlib import Path

from gateway.sandbox.media import parse_still
from gateway.sandbox.models import FPS, Size, all_frame_sizes

FOLDER = Path("gateway/sandbox/stills")
REPEATS = 16
X264 = "keyint=infinite:scenecut=0:bframes=0:ref=1:weightp=0:crf=30:threads=1:slices=1"


def draw(size: Size) -> str:
    """Return a filter that draws a dusk by the sea: five bands, a sun and its path."""
    bands = ("0x24304f", "0x4a3f63", "0x8a5568", "0xc9785c")
    parts = [f"color=c=0x1b2a3a:s={size[0]}x{size[1]}:r={FPS}"]
    parts += [
        f"drawbox=x=0:y=ih*{index}/8:w=iw:h=ih/8:color={color}:t=fill"
        for index, color in enumerate(bands)
    ]
    parts.append("drawbox=x=iw*7/16:y=ih*5/16:w=iw/8:h=ih*3/16:color=0xf2c57c:t=fill")
    parts.append("drawbox=x=iw*15/32:y=ih/2:w=iw/16:h=ih/2:color=0x7a6a5a:t=fill")
    return ",".join(parts)


def make_still(size: Size) -> bytes:
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", draw(size)]
    command += ["-frames:v", str(REPEATS + 1), "-pix_fmt", "yuv420p"]
    command += ["-c:v", "libx264", "-preset", "veryslow", "-profile:v", "high"]
    # The encoder's name and settings would be most of the file.
    command += ["-x264-params", X264, "-bsf:v", "filter_units=remove_types=6"]
    command += ["-f", "h264", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    total_bytes = 0
    for size in all_frame_sizes():
        stream = make_still(size)
        if len(parse_still(size, stream).repeats) != REPEATS:
            print(f"{size}: the encoder did not write {REPEATS} repeats", file=sys.stderr)
            return 1
        (FOLDER / f"{size[0]}x{size[1]}.h264").write_bytes(stream)
        total_bytes += len(stream)
    print(f"{len(all_frame_sizes())} stills, {total_bytes} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
