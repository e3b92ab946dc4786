"""An upstream that does as it is told and remembers what it was asked."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.requests import NormalizedRequest
from gateway.domain.tasks import Observation
from gateway.ports import Submission


@dataclass
class Submitted:
    """One paid POST that was received."""

    credential: str
    deployment: str
    request: NormalizedRequest
    draft_task_id: str | None
    attempt_id: str


@dataclass
class FakeUpstream:
    """Implements the Upstream port. Errors to raise and statuses to show are set by the test."""

    name: str = "fake"
    credentials: Sequence[str] = ("default",)
    supports_list: bool = True
    supports_cancel: bool = True
    submit_errors: list[Exception] = field(default_factory=list)
    read_error: Exception | None = None
    list_error: Exception | None = None
    cancel_error: Exception | None = None
    shown: dict[str, Observation] = field(default_factory=dict)
    hidden_from_list: set[str] = field(default_factory=set)
    submits: list[Submitted] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    lists: list[Sequence[str]] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """If set, a submit waits for it before it is answered."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first submit has come."""

    async def submit(
        self,
        credential: str,
        deployment: str,
        request: NormalizedRequest,
        *,
        draft_task_id: str | None,
        attempt_id: str,
    ) -> Submission:
        self.submits.append(Submitted(credential, deployment, request, draft_task_id, attempt_id))
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.submit_errors:
            raise self.submit_errors.pop(0)
        upstream_task_id = f"up-{len(self.submits)}"
        self.shown[upstream_task_id] = Observation("queued", {})
        return Submission(upstream_task_id, "req-1")

    async def observe(self, credential: str, upstream_task_id: str) -> Observation | None:
        del credential
        self.gets.append(upstream_task_id)
        if self.read_error is not None:
            raise self.read_error
        return self.shown.get(upstream_task_id)

    async def observe_many(
        self, credential: str, upstream_task_ids: Sequence[str]
    ) -> Mapping[str, Observation]:
        del credential
        self.lists.append(upstream_task_ids)
        if error := self.read_error or self.list_error:
            raise error
        asked = set(upstream_task_ids) - self.hidden_from_list
        return {key: value for key, value in self.shown.items() if key in asked}

    async def cancel(self, credential: str, upstream_task_id: str) -> None:
        del credential
        self.cancels.append(upstream_task_id)
        if self.cancel_error is not None:
            raise self.cancel_error

    async def check(self, credential: str) -> None:
        del credential

    async def close(self) -> None:
        """Nothing is open."""
