"""The request of the published page, and the values that it lists."""

from collections.abc import Mapping
from typing import Final

from tests.support.captured import PROMPT_MARK, QUERY_MARK

MODEL: Final = "doubao-seedance-1-0-pro-250528"
PROMPT: Final = f"{PROMPT_MARK} past a lighthouse at dusk"
IMAGE_URL: Final = f"https://img.example/boat.png?sign={QUERY_MARK}"
IMAGE: Final = {"type": "image_url", "image_url": {"url": IMAGE_URL}}
BODY: Final[Mapping[str, object]] = {
    "model": MODEL,
    "content": [{"type": "text", "text": f"{PROMPT} --resolution 480p --duration 5"}, IMAGE],
}
VALUES: Final = (
    *(f"--duration {value}" for value in (5, 10)),
    *(f"--resolution {value}" for value in ("480p", "1080p")),
    *(
        f"--ratio {value}"
        for value in (
            "21:9",
            "16:9",
            "4:3",
            "1:1",
            "3:4",
            "9:16",
            "9:21",
            "keep_ratio",
            "adaptive",
        )
    ),
    *(f"-- camerafixed {value}" for value in ("true", "false")),
)
"""As the page prints them, the blank before `camerafixed` included."""

AT_ONCE: Final = "sandbox:queued=0 sandbox:run=1"
"""In a prompt: the sandbox finishes the task as soon as it is there."""
FOREVER_QUEUED: Final = "sandbox:queued=100000"
FOREVER_RUNNING: Final = "sandbox:queued=0 sandbox:run=100000"


def make_body(words: str = AT_ONCE, **fields: object) -> dict[str, object]:
    """Return a body whose prompt ends in `words`: text commands, or words for the sandbox."""
    return {
        "model": MODEL,
        "content": [{"type": "text", "text": f"{PROMPT} {words}"}],
        **fields,
    }
