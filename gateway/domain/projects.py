"""Organization, project, key: the deployment, what is isolated, who calls."""

import re
from dataclasses import dataclass
from typing import Final

DEFAULT_PROJECT: Final = "default"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")


@dataclass(frozen=True, slots=True)
class Project:
    """What is isolated: no query crosses its border."""

    id: str
    name: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Who changed what, when; nothing here is secret. `actor` is `cli:<name>` or `bootstrap`."""

    id: str
    at_ms: int
    actor: str
    action: str
    subject: str
    detail: str = ""


def is_project_name(name: str) -> bool:
    """Whether `name` is 1 to 63 characters of a-z, 0-9, dash and underscore."""
    return _NAME.match(name) is not None
