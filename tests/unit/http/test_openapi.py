import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # no stubs here
from openapi_spec_validator import validate

from gateway.http.endpoints import ENDPOINTS, Endpoint
from gateway.http.openapi import OPERATIONS, build_document
from gateway.http.schemas import EXAMPLES


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return build_document()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


def test_the_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_exactly_the_endpoints_are_described(document: dict[str, Any]) -> None:
    described = {(path, method) for path, method, _ in operations(document)}

    assert described == {(endpoint.path, endpoint.method) for endpoint in ENDPOINTS}
    assert {endpoint.operation for endpoint in ENDPOINTS} == set(OPERATIONS)


def test_an_endpoint_without_words_stops_the_build() -> None:
    with pytest.raises(KeyError):
        build_document([Endpoint("GET", "/new", "do_something_new")])


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in names)


def test_a_key_is_asked_for_exactly_where_one_is_needed(document: dict[str, Any]) -> None:
    public = {(e.path, e.method) for e in ENDPOINTS if e.is_public}

    for path, method, operation in operations(document):
        assert (operation.get("security") == []) == ((path, method) in public)
        assert ("401" in operation["responses"]) == ((path, method) not in public)


def test_parameters_of_paths_are_declared(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        wanted = set(re.findall(r"\{(\w+)\}", path))
        refs = [p["$ref"].rpartition("/")[2] for p in operation["parameters"]]
        declared = [document["components"]["parameters"][name] for name in refs]

        assert {p["name"] for p in declared if p["in"] == "path"} == wanted


def test_every_error_answer_has_the_one_body(document: dict[str, Any]) -> None:
    for response in document["components"]["responses"].values():
        schema = response["content"]["application/json"]["schema"]

        assert schema == {"$ref": "#/components/schemas/Error"}
        assert "X-Request-Id" in response["headers"]


def test_the_published_example_is_in_it_in_its_own_order(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["SubmitRequest"]
    example = schema["examples"][0]

    assert list(example) == schema["required"] == ["model", "content"]
    assert example["content"][0]["text"].endswith("--resolution 480p --duration 5")
    assert "role" not in example["content"][1]


def test_every_example_is_what_its_schema_allows(document: dict[str, Any]) -> None:
    found = document["components"]["schemas"]
    for name in EXAMPLES:
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": found}}
        Draft202012Validator(schema).validate(found[name]["examples"][0])


def test_what_the_sdks_send_is_allowed(document: dict[str, Any]) -> None:
    found = document["components"]["schemas"]
    schema = {"$ref": "#/components/schemas/SubmitRequest", "components": {"schemas": found}}
    properties = found["SubmitRequest"]["properties"]
    example: dict[str, object] = found["SubmitRequest"]["examples"][0]
    unset = {name: None for name in properties if name not in {"model", "content"}}

    Draft202012Validator(schema).validate(example | unset | {"unknown": [1]})
    Draft202012Validator(schema).validate(
        example | {"duration": "5", "watermark": "true", "seed": -1}
    )
