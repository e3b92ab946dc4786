"""A task of the simulated upstream: what it will become, its status at a time, its wire forms.

Nothing happens to a task while it runs: its start, end and outcome are planned when it is made
(and planned anew when another one leaves the queue before it), so its status is a function of the
clock and a restart needs no catching up.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from gateway.sandbox.draws import Draws, hash_text, pick_by_text
from gateway.sandbox.magic import Magic
from gateway.sandbox.models import FPS, RATIOS, frame_size
from gateway.sandbox.requests import Order

RETENTION_MS: Final = 7 * 24 * 3600 * 1000
CANCELLED_RETENTION_MS: Final = 24 * 3600 * 1000
DRAFT_PERCENT: Final = 60
SILENT_DRAFT_PERCENT: Final = 70
RUN_MS: Final = (90_000, 150_000)
"""The range for a film of five seconds."""
QUEUE_MS: Final = (2_000, 8_000)
FLEX_QUEUE_FACTOR: Final = 10
_RESOLUTION_PERCENT: Final[Mapping[str, int]] = MappingProxyType(
    {"480p": 100, "720p": 100, "1080p": 120, "4k": 200}
)
_EXTRA_SECOND_PERCENT: Final = 7


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Spec:
    """What a task will make, and what is told about it. Kept as JSON."""

    resolution: str
    ratio: str
    width: int
    height: int
    duration_s: int
    frames: int
    is_by_frames: bool
    tokens: int
    seed: int
    asked_seed: int | None
    expires_after_s: int
    priority: int | None
    generate_audio: bool | None
    draft: bool
    draft_task_id: str
    tools: tuple[str, ...]
    searches: int
    safety_identifier: str
    output_format: str
    has_task_types: bool
    return_last_frame: bool
    callback_url: str
    failure: str
    word: str
    has_usage: bool
    has_video: bool
    is_vanishing: bool
    request_id: str
    request_hash: str
    prompt_hash: str
    queue_ms: int
    run_ms: int
    is_held: bool
    is_expiring: bool

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Spec":
        values = json.loads(text)
        values["tools"] = tuple(values["tools"])
        return Spec(**values)


@dataclass(frozen=True, slots=True)
class Task:
    """One task. `*_ms` are dates, `*_at` are points on the timeline that `time_scale` speeds up."""

    ordinal: int
    id: str
    account: str
    lane: str
    endpoint: str
    model: str
    service_tier: str
    created_ms: int
    created_at: int
    start_at: int
    end_at: int
    expire_at: int
    outcome: str
    cancelled_ms: int | None
    is_deleted: bool
    spec: Spec

    def status(self, at: int) -> Status:
        if self.cancelled_ms is not None:
            return Status.CANCELLED
        if at < self.start_at:
            return Status.QUEUED
        if at < self.end_at:
            return Status.RUNNING
        return Status.EXPIRED if self.end_at >= self.expire_at else Status(self.outcome)

    def is_visible(self, now_ms: int) -> bool:
        """Whether the API still knows the task."""
        if self.is_deleted or self.spec.is_vanishing:
            return False
        if self.cancelled_ms is not None and now_ms >= self.cancelled_ms + CANCELLED_RETENTION_MS:
            return False
        return now_ms < self.created_ms + RETENTION_MS


def make_spec(
    order: Order, magic: Magic, draws: Draws, draft: Spec | None, *, request_id: str, raw_hash: str
) -> Spec:
    """Return what the order becomes, with everything that the model decides drawn or derived."""
    by_frames = order.frames is not None
    if draft is not None:
        # The second step makes the same film at its full size.
        by_frames, duration_s, frames = draft.is_by_frames, draft.duration_s, draft.frames
        ratio = draft.ratio
    else:
        duration_s, frames = _length(order, draws)
        ratio = _ratio(order)
    width, height = frame_size(order.resolution, order.family.era, ratio)
    seed = order.seed if order.seed is not None else draws.integer("seed", 10_000, 999_999)
    generate_audio = order.generate_audio if draft is None else draft.generate_audio
    billed_frames = frames + FPS * order.content.reference_video_s
    tokens = width * height * billed_frames // 1024
    if order.draft:
        tokens = tokens * (DRAFT_PERCENT if generate_audio else SILENT_DRAFT_PERCENT) // 100
    queue_ms, run_ms = _times(order, magic, draws, duration_s)
    return Spec(
        resolution=order.resolution,
        ratio=ratio,
        width=width,
        height=height,
        duration_s=duration_s,
        frames=frames,
        is_by_frames=by_frames,
        tokens=tokens if magic.tokens is None else magic.tokens,
        seed=draft.seed if draft is not None else seed,
        asked_seed=order.seed,
        expires_after_s=order.expires_after_s,
        priority=order.priority,
        generate_audio=generate_audio,
        draft=order.draft,
        draft_task_id=order.content.draft_task_id,
        tools=order.tools,
        searches=draws.integer("searches", 1, 3) if order.tools else 0,
        safety_identifier=order.safety_identifier,
        output_format=order.output_format,
        has_task_types=order.family.has_task_types,
        return_last_frame=order.return_last_frame,
        callback_url=order.callback_url,
        failure=magic.failure,
        word=magic.word,
        has_usage=magic.has_usage,
        has_video=magic.has_video,
        is_vanishing=magic.is_vanishing,
        request_id=request_id,
        request_hash=raw_hash,
        prompt_hash=hash_text(order.content.prompt),
        queue_ms=queue_ms,
        run_ms=run_ms,
        is_held=magic.queued_s is not None,
        is_expiring=magic.is_expiring,
    )


def _length(order: Order, draws: Draws) -> tuple[int, int]:
    """Return (whole seconds, frames): frames asked for win over a duration."""
    if order.frames is not None:
        return order.frames // FPS, order.frames
    seconds = order.duration_s
    if seconds is None:
        family = order.family
        seconds = draws.integer("duration", family.duration_min, family.duration_max)
    return seconds, FPS * seconds + 1


def _ratio(order: Order) -> str:
    if order.ratio != "adaptive":
        return order.ratio
    pictures = [item.url for item in order.content.media if item.kind != "audio"]
    return pick_by_text(pictures[0], RATIOS) if pictures else "16:9"


def _times(order: Order, magic: Magic, draws: Draws, duration_s: int) -> tuple[int, int]:
    """Return (queue, run) in milliseconds of the timeline, as long as the real ones take."""
    queue_ms = draws.integer("queue", *QUEUE_MS)
    if order.service_tier == "flex":
        queue_ms *= FLEX_QUEUE_FACTOR
    if magic.queued_s is not None:
        queue_ms = int(magic.queued_s * 1000)
    run_ms = draws.integer("run", *RUN_MS)
    longer_percent = 100 + _EXTRA_SECOND_PERCENT * max(0, duration_s - 5)
    run_ms = run_ms * longer_percent * _RESOLUTION_PERCENT[order.resolution] // 10_000
    if magic.run_s is not None:
        run_ms = int(magic.run_s * 1000)
    if magic.expire_s is not None:
        run_ms = max(0, int(magic.expire_s * 1000) - queue_ms)
    return queue_ms, run_ms


def outcome_of(spec: Spec) -> Status:
    """Return how a task with this spec ends if it is neither cancelled nor overtaken by expiry."""
    if spec.failure:
        return Status.FAILED
    return Status.EXPIRED if spec.is_expiring else Status.SUCCEEDED
