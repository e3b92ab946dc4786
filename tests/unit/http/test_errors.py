import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest

from gateway import errors
from gateway.errors import (
    AccessDenied,
    Draining,
    GatewayError,
    InternalError,
    InvalidRequest,
    Overloaded,
    RunningTaskDeletion,
    StorageUnavailable,
    SubmissionUnconfirmed,
    Unauthenticated,
    UpstreamAccount,
    UpstreamAmbiguous,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.http.errors import WrongMethod, answer_error, as_gateway_error, is_safe_to_repeat
from gateway.http.exchange import Answer

REPOSITORY = Path(__file__).parents[3]
PAGE = REPOSITORY / "docs" / "errors.md"
# Nothing is ever raised as one of these, and two others never reach a client under their own code.
BASES = {GatewayError, errors.ClientFault, errors.UpstreamFault, errors.GatewayFault}


def rejected(status: int = 400, message: str = "No.", kind: str = "") -> UpstreamRejected:
    return UpstreamRejected(message, code="Some.Code", status=status, kind=kind)


def told(error: GatewayError, method: str = "GET") -> tuple[Answer, dict[str, str]]:
    answer = answer_error(error, "req-1", method)
    body: dict[str, dict[str, str]] = orjson.loads(answer.body)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "param", "type"]
    return answer, body["error"]


def every_error() -> list[type[GatewayError]]:
    found: list[type[GatewayError]] = []
    waiting: list[type[GatewayError]] = [GatewayError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == errors.__name__:
            found.append(kind)
    return found


def make(kind: type[GatewayError]) -> GatewayError:
    return rejected() if kind is UpstreamRejected else kind("Some words.")


def test_the_message_ends_in_our_request_id_after_one_full_stop() -> None:
    for message in (
        "Words",
        "Words.",
        "Words. ",
        "Words. Request id: 0217953",
        "Words (Request ID: 1",
    ):
        assert told(InvalidRequest(message))[1]["message"] == "Words. Request id: req-1"
    assert told(InvalidRequest("Really?"))[1]["message"] == "Really? Request id: req-1"


def test_a_huge_or_odd_message_is_still_an_answer() -> None:
    assert len(told(rejected(message="a" * 5_000_000))[0].body) < 5_000
    assert told(rejected(message="a \ud800 b" + " " * 100_000))[1]["code"] == "Some.Code"


def test_a_defect_is_told_in_fixed_words() -> None:
    for defect in (KeyError("canary"), InternalError("canary")):
        fault = as_gateway_error(defect)

        assert "canary" not in told(fault)[1]["message"]
        assert (fault.public_status, fault.public_code) == (500, "InternalServiceError")
    refusal = InvalidRequest("x")
    assert as_gateway_error(refusal) is refusal


def test_every_429_and_503_says_when_to_come_back() -> None:
    for error in (rejected(429), rejected(503), Overloaded("x"), StorageUnavailable("x")):
        assert dict(told(error)[0].headers)[b"retry-after"] == b"5"
    assert dict(told(Overloaded("x", retry_after_s=2))[0].headers)[b"retry-after"] == b"2"
    assert dict(told(SubmissionUnconfirmed("x"))[0].headers)[b"retry-after"] == b"5"
    assert b"retry-after" not in dict(told(RunningTaskDeletion("x"))[0].headers)


@pytest.mark.parametrize(
    ("error", "is_safe"),
    [
        (InvalidRequest("x"), True),
        (rejected(), True),
        (rejected(429), True),
        (UpstreamUnavailable("x"), True),
        (Draining("x"), True),
        (errors.Reconciling("x"), True),
        (Overloaded("x"), True),
        (StorageUnavailable("x"), True),
        (InternalError("x"), False),
        (UpstreamAmbiguous("x"), False),
        (UpstreamTimeout("x"), False),
    ],
)
def test_a_submit_that_may_have_paid_is_not_to_be_repeated(
    error: GatewayError,
    is_safe: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert is_safe_to_repeat(error) is is_safe
    headers = dict(told(error, "POST")[0].headers)

    assert headers.get(b"x-should-retry") == (None if is_safe else b"false")
    assert b"x-should-retry" not in dict(told(error, "GET")[0].headers)


def test_an_error_that_nobody_thought_about_is_not_to_be_repeated() -> None:
    class NewFault(GatewayError):
        pass

    assert not is_safe_to_repeat(NewFault("x"))


def test_trouble_of_our_account_is_never_to_be_repeated() -> None:
    for method in ("GET", "POST", "DELETE"):
        headers = dict(told(UpstreamAccount("x"), method)[0].headers)
        assert headers[b"x-should-retry"] == b"false"


def test_only_an_errors_status_is_taken_from_an_upstream() -> None:
    for status, sent in ((400, 400), (451, 451), (599, 599), (200, 502), (302, 502), (999, 502)):
        assert told(rejected(status))[0].status == sent


def test_a_missing_type_is_filled_in_from_the_status() -> None:
    assert told(rejected(404))[1]["type"] == "NotFound"
    assert told(rejected(429))[1]["type"] == "TooManyRequests"
    assert told(rejected(418))[1]["type"] == ""
    assert told(rejected(400, kind="Forbidden"))[1]["type"] == "Forbidden"


def test_headers_that_belong_to_a_status() -> None:
    assert dict(told(Unauthenticated("x"))[0].headers)[b"www-authenticate"] == b"Bearer"
    assert dict(told(WrongMethod({"POST", "GET"}))[0].headers)[b"allow"] == b"GET, POST"
    assert b"www-authenticate" not in dict(told(AccessDenied("x"))[0].headers)


def test_a_connection_is_closed_where_its_rest_must_not_be_read() -> None:
    for error in (errors.RequestTimeout("x"), errors.RequestTooLarge("x"), Draining("x")):
        assert dict(told(error)[0].headers)[b"connection"] == b"close"
    assert b"connection" not in dict(told(InvalidRequest("x"))[0].headers)
    assert (
        dict(answer_error(InvalidRequest("x"), "r", "GET", closes=True).headers)[b"connection"]
        == b"close"
    )


def test_every_error_has_an_answer() -> None:
    for kind in every_error():
        answer, error = told(make(kind), "POST")

        assert 400 <= answer.status <= 599
        assert error["code"]
        assert error["type"]


def find_codes(source: str) -> set[str]:
    """Return the codes that a module names itself: as `code`, or as that of a task's error."""
    module = ast.parse(source)
    constants = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    values = [value for node in ast.walk(module) if (value := code_given_by(node)) is not None]
    return {text for value in values for text in list_texts(value, constants)} - {""}


def code_given_by(node: ast.AST) -> ast.expr | None:
    match node:
        case (
            ast.keyword(arg="code", value=value)
            | ast.Assign(targets=[ast.Name(id="code")], value=value)
            | ast.Call(func=ast.Name(id="TaskError"), args=[value, *_])
        ):
            return value
    return None


def list_texts(value: ast.AST, constants: Mapping[str, ast.expr]) -> Iterator[str]:
    """Give every text that an expression may come to, as far as the module itself says."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.Name(id=name) if name in constants:
            yield from list_texts(constants[name], constants)
        case ast.Call(func=ast.Name()):
            pass  # what it takes are no codes
        case _:
            for part in ast.iter_child_nodes(value):
                yield from list_texts(part, constants)


def test_codes_are_found_wherever_a_module_names_them() -> None:
    source = """
_ONE: Final = "One"
_MANY = {400: "Two", 404: "Three"}
raise Fault("words", code="Four")
code = _ONE if odd else ""
read(code=text("field"))
refuse("words", code=given or _MANY.get(status, "Five"))
ENDED = TaskError("Six", "words")
log.info("words", code=error.code)
"""
    assert find_codes(source) == {"One", "Two", "Three", "Four", "Five", "Six"}


def test_the_page_names_every_code_that_any_module_gives() -> None:
    """A code that is given to one error, beside those that are a class of their own."""
    page = PAGE.read_text()
    for path in (REPOSITORY / "gateway").rglob("*.py"):
        if "sandbox" in path.parts:
            continue  # the upstream's words
        for code in find_codes(path.read_text()):
            assert f"`{code}`" in page or f"`{code}..." in page, f"{code} of {path}"


def test_the_page_lists_every_code_with_its_status_and_type_and_no_other() -> None:
    rows = re.findall(
        r"^\| `([A-Za-z.]+)` \| (\d{3}) \| `([A-Za-z]+)` \|", PAGE.read_text(), re.MULTILINE
    )
    tree = {
        (kind.code, str(kind.status), kind.type)
        for kind in every_error()
        if kind not in {*BASES, UpstreamRejected, UpstreamAmbiguous}
    }
    rules = (REPOSITORY / "gateway" / "domain" / "rules.py").read_text()
    of_rules = {
        (code, str(InvalidRequest.status), InvalidRequest.type) for code in find_codes(rules)
    }

    assert set(rows) == tree | of_rules
    assert len(rows) == len(tree) + len(of_rules)
