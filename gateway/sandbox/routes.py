"""Which operation a method and a path name, on either surface."""

from dataclasses import dataclass
from typing import Final

from gateway.sandbox.errors import VendorError
from gateway.sandbox.faults import Operation
from gateway.sandbox.links import MEDIA_PATH
from gateway.sandbox.settings import SandboxSettings

ARK_PATH: Final = "/api/v3/contents/generations/tasks"
SEEDANCE_PATHS: Final = ("/seedance/generations", "/v1/seedance/generations")
CONTROL_PATH: Final = "/_sandbox/"


@dataclass(frozen=True, slots=True)
class Route:
    """An operation, and the id or file name in the path, if any."""

    operation: Operation
    name: str = ""
    is_seedance: bool = False


def find_route(method: str, path: str, settings: SandboxSettings) -> Route:
    """Return the route of a request.

    Raises:
        VendorError: 404 for a path, 405 for a method that does not exist here.
    """
    if path.startswith(MEDIA_PATH):
        if method not in {"GET", "HEAD"}:
            raise _wrong_method(method)
        return Route(Operation.VIDEO, path.removeprefix(MEDIA_PATH))
    for base in (ARK_PATH, *SEEDANCE_PATHS):
        if path == base or path.startswith(f"{base}/"):
            name = path[len(base) :].strip("/")
            return _task_route(method, name, settings, is_seedance=base != ARK_PATH)
    raise VendorError("NotFound", "The requested path does not exist")


def _task_route(method: str, name: str, settings: SandboxSettings, *, is_seedance: bool) -> Route:
    operation = _operation(method, name)
    if is_seedance and not settings.has_profile("full_seedance"):
        is_cancel_path = operation is Operation.CREATE and name
        if operation in {Operation.LIST, Operation.DELETE} or is_cancel_path:
            raise VendorError("NotFound", "The requested path does not exist")
    if operation is Operation.LIST and settings.has_profile("no_list"):
        raise VendorError("NotFound", "The requested path does not exist")
    return Route(operation, name, is_seedance)


def _operation(method: str, name: str) -> Operation:
    match method:
        case "POST":
            # The upstream has no cancel operation: `POST .../{id}/cancel` falls through to create.
            return Operation.CREATE
        case "GET":
            return Operation.GET if name else Operation.LIST
        case "DELETE" if name:
            return Operation.DELETE
        case _:
            raise _wrong_method(method)


def _wrong_method(method: str) -> VendorError:
    return VendorError(
        "InvalidArgumentError", f"The method {method} is not allowed here", status=405
    )
