"""The one table of what can be asked for. The application and its description are made from it."""

from dataclasses import dataclass
from typing import Final

from gateway.domain.callbacks import PATH_PREFIX
from gateway.http import ark, seedance

DOCS_PATH: Final = "/docs"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. `operation` names what is done, the same on every surface."""

    method: str
    path: str
    operation: str
    surface: str = ""
    is_public: bool = False
    """Answered without a key."""


_COLLECTIONS: Final = tuple(
    (surface, path)
    for surface, paths in (("seedance", seedance.COLLECTIONS), ("ark", ark.COLLECTIONS))
    for path in paths
)

TASK_ENDPOINTS: Final = (
    *(
        Endpoint(method, f"{path}/{{task_id}}", operation, surface)
        for surface, path in _COLLECTIONS
        for method, operation in (("GET", "get_task"), ("DELETE", "cancel_task"))
    ),
    *(
        Endpoint(method, path, operation, surface)
        for surface, path in _COLLECTIONS
        for method, operation in (("POST", "submit_task"), ("GET", "list_tasks"))
    ),
    *(
        Endpoint("GET", f"{path.rpartition('/')[0]}/limits", "get_limits", surface)
        for surface, path in _COLLECTIONS
    ),
)
"""Status reads come first: they are most of all requests."""
PROBE_ENDPOINTS: Final = (
    Endpoint("GET", "/livez", "get_liveness", is_public=True),
    Endpoint("GET", "/readyz", "get_readiness", is_public=True),
    Endpoint("GET", "/healthz", "get_readiness", is_public=True),
)
DOCS_ENDPOINTS: Final = (
    Endpoint("GET", "/openapi.json", "get_description", is_public=True),
    Endpoint("GET", DOCS_PATH, "get_docs_page", is_public=True),
    Endpoint("GET", DOCS_PATH + "/{asset}", "get_docs_asset", is_public=True),
)
ENDPOINTS: Final = (*TASK_ENDPOINTS, *PROBE_ENDPOINTS, *DOCS_ENDPOINTS)
"""What is described to clients."""
UPSTREAM_ENDPOINTS: Final = (
    Endpoint("POST", PATH_PREFIX + "{token}", "take_callback", is_public=True),
)
"""What upstreams call: no client has anything to do with it."""
_ALL: Final = (*ENDPOINTS, *UPSTREAM_ENDPOINTS)

METHODS: Final = frozenset({"HEAD", *(e.method for e in _ALL)})
"""No operation has another: a request with one needs no key to be told what is allowed."""


def find_route(path: str) -> str | None:
    """Return the template that `path` matches, whether or not it will be answered."""
    if path in _PATHS:
        return path
    parent, _, last = path.rpartition("/")
    return _PARENTS.get(parent) if last else None


def is_public(path: str) -> bool:
    """Whether `path` is answered without a key; anything that is not listed needs one."""
    return path in _PUBLIC_PATHS or path.startswith((DOCS_PATH + "/", PATH_PREFIX))


_PATHS: Final = frozenset(e.path for e in _ALL if "{" not in e.path)
_PARENTS: Final = {e.path.rpartition("/")[0]: e.path for e in _ALL if "{" in e.path}
_PUBLIC_PATHS: Final = frozenset(e.path for e in _ALL if e.is_public)
