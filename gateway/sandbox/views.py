"""A task on the wire: what each state shows."""

from dataclasses import dataclass

from gateway.sandbox.clock import SandboxClock
from gateway.sandbox.errors import ErrorContext, VendorError, describe
from gateway.sandbox.links import Links
from gateway.sandbox.models import FPS
from gateway.sandbox.settings import SandboxSettings
from gateway.sandbox.tasks import Spec, Status, Task


@dataclass(frozen=True, slots=True)
class View:
    """What the wire form of a task depends on besides the task."""

    settings: SandboxSettings
    clock: SandboxClock
    links: Links

    def render(self, task: Task, at: int) -> dict[str, object]:
        """Return the task object as it is at a point of the timeline."""
        status = task.status(at)
        spec = task.spec
        shown: dict[str, object] = {
            "id": task.id,
            "model": task.model,
            "status": spec.word if spec.word and status is Status.RUNNING else status.value,
        }
        if status is Status.SUCCEEDED:
            shown |= self._product(task)
        elif self.settings.has_profile("reseller") and status in {Status.QUEUED, Status.RUNNING}:
            shown |= {"content": {}, "usage": {"completion_tokens": 0, "total_tokens": 0}}
        elif status is Status.FAILED:
            shown["error"] = self._failure(task)
        shown["created_at"] = task.created_ms // 1000
        shown["updated_at"] = self.updated_ms(task, at) // 1000
        if status is Status.SUCCEEDED:
            shown |= _measures(spec)
        shown["service_tier"] = task.service_tier
        shown["execution_expires_after"] = spec.expires_after_s
        return shown | self._echo(spec, status)

    def updated_ms(self, task: Task, at: int) -> int:
        """Return the date of the last change of status."""
        match task.status(at):
            case Status.CANCELLED:
                return task.cancelled_ms or 0
            case Status.QUEUED:
                return task.created_ms
            case Status.RUNNING:
                return self.clock.date_of(task.start_at)
            case _:
                return self.clock.date_of(task.end_at)

    def _product(self, task: Task) -> dict[str, object]:
        spec = task.spec
        made_ms = self.clock.date_of(task.end_at)
        content: dict[str, object] = {}
        if spec.has_video:
            content["video_url"] = self.links.sign(f"{task.id}.{spec.output_format}", made_ms)
        if spec.return_last_frame:
            content["last_frame_url"] = self.links.sign(f"{task.id}.png", made_ms)
        product: dict[str, object] = {"content": content}
        if spec.has_usage:
            usage: dict[str, object] = {
                "completion_tokens": spec.tokens,
                "total_tokens": spec.tokens,
            }
            if spec.tools:
                usage["tool_usage"] = {"web_search": spec.searches}
            product["usage"] = usage
        return product

    def _failure(self, task: Task) -> dict[str, object]:
        error = VendorError(task.spec.failure, model=task.model)
        context = ErrorContext(
            task.spec.request_id, account_number(task.account), is_reseller=False
        )
        return {"code": error.code, "message": describe(error, context)}

    def _echo(self, spec: Spec, status: Status) -> dict[str, object]:
        """Return the request's own marks, as far as the profile gives them back."""
        is_partial = self.settings.has_profile("partial_echo") and status is not Status.SUCCEEDED
        if is_partial or self.settings.has_profile("no_echo"):
            return {}
        echo: dict[str, object] = {}
        if status is Status.SUCCEEDED:
            echo["seed"] = spec.seed
        elif spec.asked_seed is not None:
            echo["seed"] = spec.asked_seed
        if spec.safety_identifier:
            echo["safety_identifier"] = spec.safety_identifier
        return echo


def _measures(spec: Spec) -> dict[str, object]:
    """Return what a finished task says about its film."""
    shown: dict[str, object] = {"resolution": spec.resolution, "ratio": spec.ratio}
    if spec.is_by_frames:
        shown["frames"] = spec.frames
    else:
        shown["duration"] = spec.duration_s
    shown["framespersecond"] = FPS
    if spec.generate_audio is not None:
        shown["generate_audio"] = spec.generate_audio
    if spec.priority is not None:
        shown["priority"] = spec.priority
    if spec.draft:
        shown["draft"] = True
    if spec.draft_task_id:
        shown["draft_task_id"] = spec.draft_task_id
    if spec.tools:
        shown["tools"] = [{"type": tool} for tool in spec.tools]
    if spec.has_task_types:
        shown["output_format"] = spec.output_format
    return shown


def account_number(account: str) -> str:
    """Return the number by which the vendor's messages call an account."""
    return f"21{int.from_bytes(account.encode()[:64], 'big') % 10**8:08d}"
