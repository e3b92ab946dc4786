"""The OpenAPI 3.1 description of the public listener, made from the table of endpoints."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic.json_schema import models_json_schema

from gateway import __version__
from gateway.http import schemas
from gateway.http.endpoints import ENDPOINTS, Endpoint
from gateway.http.query import (
    FILTER_CHARS_MAX,
    IDEMPOTENCY_KEY_CHARS_MAX,
    PAGE_NUM_MAX,
    STATUSES,
    TASK_IDS_COUNT_MAX,
)

Json = dict[str, object]

_REF: Final = "#/components/schemas/{model}"
_WAIT_S_MAX: Final = 60
_PAGE_SIZE_MAX: Final = 500
_OTHER: Final = 0
"""Stands for the statuses that are not listed."""
_WARNING: Final = "X-Gateway-Warning"

_DESCRIPTION: Final = """\
A reverse proxy for Seedance video generation. Clients of the vendor's API, or of a reseller with
the same contract, change the base URL and the key: every operation exists under the paths of both.
Generation takes minutes: submit a task, then ask for it by its id; `?wait=` answers at the next
change. Every error has the same body, and every answer the header `X-Request-Id`."""


@dataclass(frozen=True, slots=True)
class OperationDoc:
    """What is said of one operation: its words, its parameters, and its answers by status."""

    summary: str
    description: str
    errors: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    model: str = ""
    model_by_surface: Mapping[str, str] | None = None
    alternative: str = ""
    """Another model of a success."""
    headers: tuple[str, ...] = ()
    has_body: bool = False
    is_upstream_asked: bool = False
    content_type: str = "application/json"


_AUTHENTICATED: Final = (400, 401, 500, 503)

OPERATIONS: Final[Mapping[str, OperationDoc]] = {
    "submit_task": OperationDoc(
        "Submit a task",
        "Checks the request, then sends it upstream once, with the gateway's own credential. "
        "Answers with the task's id as soon as the upstream has accepted it, or after a "
        "configured time, whatever comes first. An error with the header `x-should-retry: false` "
        "may hide a task that was accepted: do not send the request again. The same "
        "`Idempotency-Key` with the same body gives the same task for a week. With `dry_run=1` "
        "nothing is sent or held: the answer is an Estimate. It says in `would_refuse` what a "
        "submit with the same headers would be refused with, also for its `Idempotency-Key`.",
        (*_AUTHENTICATED, 402, 403, 404, 408, 413, 415, 422, 429),
        parameters=("dry_run", "Idempotency-Key"),
        model_by_surface={"ark": "Submitted", "seedance": "SubmittedWithMessage"},
        alternative="Estimate",
        headers=(_WARNING, "Idempotent-Replayed", "RateLimit", "RateLimit-Policy"),
        has_body=True,
        is_upstream_asked=True,
    ),
    "get_task": OperationDoc(
        "Read a task",
        "Answers from the gateway's own store. With `wait`, answers at the next change, at once "
        "if the task has ended or if `If-None-Match` already differs.",
        (*_AUTHENTICATED, 404),
        parameters=("task_id", "wait", "If-None-Match", "Prefer"),
        model_by_surface={"ark": "Task", "seedance": "TaskWithRequest"},
        headers=("ETag", "Preference-Applied"),
    ),
    "list_tasks": OperationDoc(
        "List tasks",
        "The project's tasks of the last seven days, newest first. A task whose submission is "
        "still being answered is listed as queued, and is gone again if it is refused.",
        _AUTHENTICATED,
        parameters=(
            "page_num",
            "page_size",
            "filter.status",
            "filter.task_ids",
            "filter.model",
            "filter.service_tier",
        ),
        model="TaskPage",
    ),
    "cancel_task": OperationDoc(
        "Cancel or delete a task",
        "A queued task is cancelled; one that has ended is no longer shown; a running one is "
        "refused with 409.",
        (*_AUTHENTICATED, 404, 409, 429, 504),
        parameters=("task_id",),
        model="Cancelled",
        is_upstream_asked=True,
    ),
    "get_limits": OperationDoc(
        "What the key has left",
        "Every limit that binds the key: its own, its project's and the organization's.",
        _AUTHENTICATED,
        model="Limits",
    ),
    "get_liveness": OperationDoc(
        "Whether the process lives", "Nothing is checked.", (400,), model="Health"
    ),
    "get_readiness": OperationDoc(
        "Whether requests should be sent here",
        "503 as soon as the process begins to stop, or when its store does not answer.",
        (400, 503),
        parameters=("verbose",),
        model="Health",
    ),
    "get_description": OperationDoc("This description", "OpenAPI 3.1.", (400,)),
    "get_docs_page": OperationDoc(
        "This description as a page", "HTML.", (400,), content_type="text/html"
    ),
    "get_docs_asset": OperationDoc(
        "A file of that page",
        "Scripts, styles and pictures.",
        (400, 404),
        parameters=("asset",),
        content_type="*/*",
    ),
}

_ERRORS: Final[Mapping[int, str]] = {
    400: "The request is not valid; `param` names the field.",
    401: "The key is missing or not valid.",
    402: "A budget has no room for what the task may cost.",
    403: "The key may not do this.",
    404: "Not found, or another project's: the two are told in the same words.",
    408: "The body did not arrive in time.",
    409: "The task's state does not allow it.",
    413: "The body is too large.",
    415: "The body is neither JSON in UTF-8 nor without encoding.",
    422: "The Idempotency-Key was used with another body.",
    429: "Too many requests, or too many tasks in progress.",
    500: "The gateway made a mistake.",
    503: "Not possible at the moment; nothing was bought unless `x-should-retry` is `false`.",
    504: "The upstream did not answer in time.",
    _OTHER: "A refusal by the upstream, with its own status and code.",
}
_TOO_LARGE_HEAD: Final[Json] = {
    "description": "The head of the request is too large. The body is empty: this answer is the "
    "server's, from before the request was read."
}
_ERROR_HEADERS: Final[Mapping[int, tuple[str, ...]]] = {
    400: (_WARNING,),
    401: ("WWW-Authenticate",),
    402: ("RateLimit", "RateLimit-Policy", _WARNING),
    404: (_WARNING,),
    409: ("Retry-After",),
    422: (_WARNING,),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy", _WARNING),
    500: ("x-should-retry", _WARNING),
    503: ("Retry-After", "x-should-retry", _WARNING),
    _OTHER: (_WARNING,),
}


def build_document(endpoints: Iterable[Endpoint] = ENDPOINTS) -> Json:
    """Return the document. Raises KeyError for an endpoint whose operation is not described."""
    paths: dict[str, Json] = {}
    for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.path):
        item = paths.setdefault(endpoint.path, {})
        item[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Seedance Gateway",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "seedance", "description": "The documented contract of resellers."},
            {"name": "ark", "description": "What the vendor's own clients call."},
            {"name": "service", "description": "Probes and this description; no key needed."},
        ],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of this gateway: `Authorization: Bearer sg_live_...`.",
                }
            },
            "parameters": _PARAMETERS,
            "headers": _HEADERS,
            "responses": {_response_name(status): _error_response(status) for status in _ERRORS},
            "schemas": _schemas(),
        },
    }


def render_document() -> bytes:
    """Return the document's JSON."""
    return orjson.dumps(build_document())


def _operation(endpoint: Endpoint) -> Json:
    doc = OPERATIONS[endpoint.operation]
    prefix = endpoint.path.strip("/").partition("{")[0].replace("/", "_").replace(".", "_")
    operation: Json = {
        "operationId": f"{endpoint.operation}__{prefix.strip('_')}",
        "tags": [endpoint.surface or "service"],
        "summary": doc.summary,
        "description": doc.description,
        "parameters": [
            {"$ref": f"#/components/parameters/{name}"}
            for name in (*doc.parameters, "X-Request-Id")
        ],
        "responses": _responses(endpoint, doc),
    }
    if endpoint.is_public:
        operation["security"] = []
    if doc.has_body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _ref("SubmitRequest")}},
        }
    return operation


def _responses(endpoint: Endpoint, doc: OperationDoc) -> Json:
    responses: Json = {"200": _success(endpoint, doc), "431": _TOO_LARGE_HEAD}
    if "ETag" in doc.headers:
        responses["304"] = {
            "description": "Nothing has changed since the answer with this ETag.",
            "headers": _header_refs((*doc.headers, "X-Request-Id")),
        }
    for status in sorted(set(doc.errors)):
        responses[str(status)] = _response_ref(status)
    if doc.is_upstream_asked:
        responses["default"] = _response_ref(_OTHER)
    if endpoint.operation == "get_readiness":
        responses["503"] = {
            "description": "Not ready.",
            "headers": _header_refs(("Retry-After", "X-Request-Id")),
            "content": {"application/json": {"schema": _ref("Health")}},
        }
    return responses


def _success(endpoint: Endpoint, doc: OperationDoc) -> Json:
    model = doc.model_by_surface[endpoint.surface] if doc.model_by_surface else doc.model
    schema = _ref(model) if model else {}
    if doc.alternative:
        schema = {"anyOf": [schema, _ref(doc.alternative)]}
    return {
        "description": "Done.",
        "headers": _header_refs((*doc.headers, "X-Request-Id")),
        "content": {doc.content_type: {"schema": schema}},
    }


def _error_response(status: int) -> Json:
    headers = (*_ERROR_HEADERS.get(status, ()), "X-Request-Id")
    return {
        "description": _ERRORS[status],
        "headers": _header_refs(headers),
        "content": {"application/json": {"schema": _ref("Error")}},
    }


def _response_name(status: int) -> str:
    return "ErrorOfUpstream" if status == _OTHER else f"Error{status}"


def _response_ref(status: int) -> Json:
    return {"$ref": f"#/components/responses/{_response_name(status)}"}


def _schemas() -> Json:
    _, definitions = models_json_schema(
        [(model, "validation") for model in schemas.MODELS], ref_template=_REF
    )
    found: Json = dict(sorted(definitions["$defs"].items()))
    return {name: _with_example(name, schema) for name, schema in found.items()}


def _with_example(name: str, schema: object) -> object:
    if name in schemas.EXAMPLES and isinstance(schema, dict):
        return {**schema, "examples": [schemas.EXAMPLES[name]]}
    return schema


def _ref(model: str) -> Json:
    return {"$ref": _REF.format(model=model)}


def _header_refs(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(description: str, schema: Json) -> Json:
    return {"description": description, "schema": schema}


def _parameter(where: str, name: str, description: str, schema: Json) -> Json:
    parameter: Json = {"name": name, "in": where, "description": description, "schema": schema}
    if where == "path":
        parameter["required"] = True
    return parameter


_HEADERS: Final[Json] = {
    "X-Request-Id": _header(
        "The request's id: the client's own, or a new one.", {"type": "string"}
    ),
    "ETag": _header("Changes with every version of the task.", {"type": "string"}),
    "Preference-Applied": _header("The wait that was granted.", {"type": "string"}),
    "Idempotent-Replayed": _header(
        "`true`: the task is that of an earlier request.", {"const": "true"}
    ),
    "RateLimit": _header(
        "What is left of the tightest rate, and the seconds until all of it is free again.",
        {"type": "string"},
    ),
    "RateLimit-Policy": _header("That rate, and its window in seconds.", {"type": "string"}),
    "Retry-After": _header("Seconds to wait.", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": _header("The scheme of keys.", {"const": "Bearer"}),
    _WARNING: _header(
        "Rules of the model that a submit or its estimate broke, where they are only warned of: "
        "the upstream may insist on them.",
        {"type": "string"},
    ),
    "x-should-retry": _header(
        "`false`: sending the request again could pay twice, or can't help.", {"const": "false"}
    ),
}

_FILTER: Final[Json] = {"type": "string", "maxLength": FILTER_CHARS_MAX}
_PARAMETERS: Final[Json] = {
    "task_id": _parameter("path", "task_id", "The task's id.", {"type": "string"}),
    "asset": _parameter("path", "asset", "The file's name.", {"type": "string"}),
    "wait": _parameter(
        "query",
        "wait",
        "Seconds to wait for a change.",
        {"type": "number", "minimum": 0, "maximum": _WAIT_S_MAX, "multipleOf": 0.001},
    ),
    "dry_run": _parameter(
        "query",
        "dry_run",
        "Only estimate: `1` or `true`. Any other spelling of the name is refused.",
        {"enum": ["1", "true", "0", "false"]},
    ),
    "Idempotency-Key": _parameter(
        "header",
        "Idempotency-Key",
        "Names this request; send it again with the same one if no answer came.",
        {"type": "string", "pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}$"},
    ),
    "If-None-Match": _parameter(
        "header", "If-None-Match", "ETags that are known, or `*`.", {"type": "string"}
    ),
    "Prefer": _parameter(
        "header",
        "Prefer",
        "`wait=<seconds>`, as above; granted as far as it goes.",
        {"type": "string"},
    ),
    "X-Request-Id": _parameter(
        "header",
        "X-Request-Id",
        "Taken over if it is at most 128 letters, digits and `_ . : -`.",
        {"type": "string"},
    ),
    "verbose": _parameter("query", "verbose", "Names the checks.", {"type": "string"}),
    "page_num": _parameter(
        "query",
        "page_num",
        "The page, from 1.",
        {"type": "integer", "minimum": 1, "maximum": PAGE_NUM_MAX, "default": 1},
    ),
    "page_size": _parameter(
        "query",
        "page_size",
        "Tasks on a page.",
        {"type": "integer", "minimum": 1, "maximum": _PAGE_SIZE_MAX, "default": 20},
    ),
    "filter.status": _parameter(
        "query",
        "filter.status",
        "Only these states; may be repeated.",
        {"type": "array", "items": {"enum": list(STATUSES)}},
    ),
    "filter.task_ids": _parameter(
        "query",
        "filter.task_ids",
        "Only these tasks; repeated, not separated by commas.",
        {"type": "array", "items": _FILTER, "maxItems": TASK_IDS_COUNT_MAX},
    ),
    "filter.model": _parameter("query", "filter.model", "Only this model.", _FILTER),
    "filter.service_tier": _parameter(
        "query", "filter.service_tier", "Only this service tier.", _FILTER
    ),
}
