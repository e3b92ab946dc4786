"""Bodies to normalize, and the catalog that is shipped."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import yaml

from gateway.domain.catalog import load_catalog
from gateway.domain.models import Catalog
from gateway.domain.policy import NormalizePolicy
from gateway.domain.requests import NormalizedRequest, normalize

MODELS_FILE: Final = Path(__file__).parents[2] / "config" / "models.yaml"
PRO: Final = "doubao-seedance-1-0-pro-250528"
LITE_I2V: Final = "doubao-seedance-1-0-lite-i2v-250428"
V15: Final = "doubao-seedance-1-5-pro-251215"
V20: Final = "dreamina-seedance-2-0-260128"
V25: Final = "doubao-seedance-2-5-260628"
IMAGE_URL: Final = "https://img.example/boat.png"
DEFAULT_POLICY: Final = NormalizePolicy()


@cache
def shipped_document() -> Mapping[str, object]:
    document: Mapping[str, object] = yaml.safe_load(MODELS_FILE.read_text())
    return document


@cache
def shipped_catalog() -> Catalog:
    return load_catalog(
        shipped_document(),
        overrides=[{"families": {"house-model": {"ids": ["house-1"], "rules": "none"}}}],
        endpoints={"ep-20261122-abcde": "seedance-1-0-pro"},
    )


def a_text(text: str = "Paper boats drift past a lighthouse") -> dict[str, object]:
    return {"type": "text", "text": text}


def an_image(role: str | None = None, url: str = IMAGE_URL) -> dict[str, object]:
    item: dict[str, object] = {"type": "image_url", "image_url": {"url": url}}
    return item if role is None else {**item, "role": role}


def a_video() -> dict[str, object]:
    url = {"url": "https://img.example/boat.mp4"}
    return {"type": "video_url", "video_url": url, "role": "reference_video"}


def an_audio() -> dict[str, object]:
    url = {"url": "https://img.example/boat.mp3"}
    return {"type": "audio_url", "audio_url": url, "role": "reference_audio"}


def a_body(*content: object, model: object = PRO, **fields: object) -> dict[str, object]:
    return {"model": model, "content": list(content) or [a_text()], **fields}


def normalized(
    *content: object,
    model: object = PRO,
    policy: NormalizePolicy = DEFAULT_POLICY,
    **fields: object,
) -> NormalizedRequest:
    return normalize(a_body(*content, model=model, **fields), shipped_catalog(), policy)
