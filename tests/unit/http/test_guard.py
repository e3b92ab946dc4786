import time

import pytest
from starlette.types import Scope

from gateway.config import ServerConfig
from gateway.errors import InvalidRequest
from gateway.http.guard import Head, check_head

HOST = (b"host", b"gateway.example")


def a_scope(path: bytes = b"/seedance/generations", **changed: object) -> Scope:
    return {
        "method": "GET",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": b"",
        **changed,
    }


def check(
    *headers: tuple[bytes, bytes],
    scope: Scope | None = None,
    server: ServerConfig | None = None,
    is_any_host: bool = False,
) -> None:
    check_head(scope or a_scope(), Head(headers), server or ServerConfig(), is_any_host=is_any_host)


def problem(*headers: tuple[bytes, bytes], scope: Scope | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(*headers, scope=scope)
    return caught.value.message


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/livez",
        b"/seedance/generations/",
        b"/seedance/generations/cgt-20261122150102-abcde",
        b"/docs/swagger-ui-bundle.js",
        b"/.well-known/x",
        b"/a.b.c/d~e@f:g",
        b"/a%41b",
        b"/a...b",
    ],
)
def test_lets_plain_paths_through(path: bytes) -> None:
    check(HOST, scope=a_scope(path))


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"*",
        b"livez",
        b"//livez",
        b"/a//b",
        b"/..",
        b"/a/../b",
        b"/a/./b",
        b"/a/.",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a\\b",
        b"/a%00",
        b"/a\x00",
        b"/%2e%2E/a",
        b"/\xc3\xa9",
        b"/" + b"a" * 1024,
    ],
)
def test_refuses_paths_that_two_programs_may_read_in_two_ways(path: bytes) -> None:
    assert "path" in problem(HOST, scope=a_scope(path))


def test_a_long_hostile_path_costs_little() -> None:
    scope = a_scope(b"/" + b"a." * 400_000)
    started_s = time.process_time()

    problem(HOST, scope=scope)
    check(HOST, scope=a_scope(b"/" + b"a." * 50_000), server=ServerConfig(path_bytes_max=1_000_000))

    assert time.process_time() - started_s < 1


def test_uses_the_decoded_path_of_a_server_without_the_raw_one() -> None:
    scope = a_scope(b"/a/../b")
    del scope["raw_path"]

    assert "dot segments" in problem(HOST, scope=scope)


def test_a_query_is_short_and_ascii() -> None:
    assert "query" in problem(HOST, scope=a_scope(query_string=b"a=" + b"b" * 31_000))
    assert "query" in problem(HOST, scope=a_scope(query_string=b"a=\xc3\xa9"))


def test_a_header_that_counts_once_is_given_once() -> None:
    for name in (b"authorization", b"host", b"content-length", b"content-type", b"x-request-id"):
        assert f"{name.decode()} is given more than once" in problem(
            HOST, (name, b"1"), (name, b"1")
        )


def test_headers_that_are_lists_are_joined() -> None:
    head = Head([HOST, (b"if-none-match", b'"a"'), (b"if-none-match", b'"b"')])

    assert head.headers[b"if-none-match"] == b'"a", "b"'
    assert not head.wrong


def test_only_headers_that_are_read_are_kept_and_held_to_ascii() -> None:
    head = Head([HOST, (b"user-agent", b"\xff"), (b"cookie", b"secret")])

    assert head.headers == dict([HOST])
    assert not head.wrong
    assert "authorization" in problem(HOST, (b"authorization", b"\xff"))
    assert "prefer" in problem(HOST, (b"prefer", b"a" * 8193))


def test_refuses_names_that_some_proxies_take_for_ours() -> None:
    for name in (b"content_length", b"x_request_id", b"transfer_encoding"):
        assert "underscores" in problem(HOST, (name, b"1"))
    check(HOST, (b"my_header", b"1"))


def test_a_body_has_one_length() -> None:
    headers = (HOST, (b"content-length", b"1"), (b"transfer-encoding", b"chunked"))

    assert "Transfer-Encoding" in problem(*headers)


def test_too_many_headers_are_refused() -> None:
    check(HOST, *((b"a", b"b"),) * 99)
    assert "100 headers" in problem(HOST, *((b"a", b"b"),) * 100)


@pytest.mark.parametrize(
    ("host", "is_served"),
    [
        (b"gateway.example", True),
        (b"GATEWAY.example:8080", True),
        (b"[::1]:8080", True),
        (b"[::1]", True),
        (b"gateway.example.", False),
        (b"gateway.example:8080:1", False),
        (b"gateway.example@evil.example", False),
        (b"evil.example", False),
        (b"", False),
    ],
)
def test_a_host_is_served_only_if_it_is_listed(host: bytes, is_served: bool) -> None:  # noqa: FBT001 - a table's column
    server = ServerConfig(allowed_hosts=("Gateway.example", "[::1]"))
    if is_served:
        check((b"host", host), server=server)
    else:
        with pytest.raises(InvalidRequest, match="host"):
            check((b"host", host), server=server)


def test_probes_are_answered_under_any_name_but_not_without_one() -> None:
    server = ServerConfig(allowed_hosts=("gateway.example",))

    check((b"host", b"10.0.0.7:8080"), server=server, is_any_host=True)
    with pytest.raises(InvalidRequest, match="host is missing"):
        check(server=server, is_any_host=True)
