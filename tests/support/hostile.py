"""Requests that servers and proxies are known to read in two ways, and what may come of each.

Every case is one request. Where something looks like a second one, it is `HIDDEN`, whose id must
never be in the application's log. `<ID>` and `<KEY>` are filled in before sending.
"""

from dataclasses import dataclass
from typing import Final

PATH: Final = b"/seedance/generations"
HIDDEN_ID: Final = "hidden-request"
HOST: Final = b"gateway.example"
HIDDEN: Final = (
    b"GET /livez HTTP/1.1\r\nHost: "
    + HOST
    + b"\r\nX-Request-Id: "
    + HIDDEN_ID.encode()
    + b"\r\n\r\n"
)
BARE: Final = 0
"""In place of a status: nothing, or an empty 400 or 431, and the connection is closed. That is how
the server refuses what the application never sees."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request as it goes over the wire, and the statuses that may answer it."""

    name: str
    sent: bytes
    allowed: frozenset[int]


def fill_in(template: bytes, request_id: str, key: str) -> bytes:
    """Return what goes over the wire."""
    return template.replace(b"<ID>", request_id.encode()).replace(b"<KEY>", key.encode())


_HOST_LINE: Final = b"Host: " + HOST + b"\r\n"
_HEAD: Final = _HOST_LINE + b"X-Request-Id: <ID>\r\nAuthorization: Bearer <KEY>\r\n"
_GET: Final = b"GET " + PATH + b" HTTP/1.1\r\n" + _HEAD
_POST: Final = b"POST " + PATH + b" HTTP/1.1\r\n" + _HEAD
_HIDDEN_LENGTH: Final = b"Content-Length: %d\r\n" % len(HIDDEN)
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_NO_CHUNKS: Final = b"\r\n0\r\n\r\n" + HIDDEN
_END: Final = b"\r\n"


def _case(name: str, sent: bytes, *allowed: int) -> Case:
    return Case(name, sent, frozenset(allowed))


def _get(target: bytes, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" " + version + b"\r\n" + _HEAD + _END


def _chunks(body: bytes) -> bytes:
    return _POST + _CHUNKED + _END + body


FRAMING: Final = (
    # With both lengths the body is chunked and the connection closes, as RFC 9112 6.3 asks.
    _case("length and chunked", _POST + _HIDDEN_LENGTH + _CHUNKED + _NO_CHUNKS, 400),
    _case("chunked and length", _POST + _CHUNKED + b"Content-Length: 5\r\n" + _NO_CHUNKS, 400),
    _case(
        "different lengths",
        _POST + b"Content-Length: 2\r\n" + _HIDDEN_LENGTH + b"\r\n{}" + HIDDEN,
        400,
        BARE,
    ),
    _case("equal lengths", _POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400, BARE),
    _case("list of lengths", _POST + b"Content-Length: 3, 3\r\n\r\n{} " + HIDDEN, 400, BARE),
    _case("length with a plus", _POST + b"Content-Length: +2\r\n\r\n{}" + HIDDEN, BARE),
    _case("negative length", _POST + b"Content-Length: -2\r\n\r\n{}" + HIDDEN, BARE),
    _case("hexadecimal length", _POST + b"Content-Length: 0x2\r\n\r\n{}" + HIDDEN, BARE),
    _case("empty length", _POST + b"Content-Length: \r\n\r\n" + HIDDEN, BARE),
    _case("length of 2**64", _POST + b"Content-Length: 18446744073709551616\r\n\r\n{}", 413, BARE),
    _case("space before the colon", _POST + b"Content-Length : 2\r\n\r\n{}" + HIDDEN, BARE),
    _case("length folded", _POST + b"Content-Length:\r\n 2\r\n\r\n{}" + HIDDEN, BARE),
    _case("coding identity", _POST + b"Transfer-Encoding: identity\r\n" + _NO_CHUNKS, 400, BARE),
    _case(
        "coding gzip, chunked", _POST + b"Transfer-Encoding: gzip, chunked\r\n" + _NO_CHUNKS, 400
    ),
    _case(
        "coding chunked, gzip",
        _POST + b"Transfer-Encoding: chunked, gzip\r\n" + _NO_CHUNKS,
        400,
        BARE,
    ),
    _case("coding xchunked", _POST + b"Transfer-Encoding: xchunked\r\n" + _NO_CHUNKS, 400, BARE),
    _case("coding twice", _POST + _CHUNKED + _CHUNKED + _NO_CHUNKS, 400),
    _case("coding in quotes", _POST + b'Transfer-Encoding: "chunked"\r\n' + _NO_CHUNKS, 400, BARE),
    _case(
        "coding after a vertical tab",
        _POST + b"Transfer-Encoding: \x0bchunked\r\n" + _NO_CHUNKS,
        400,
        BARE,
    ),
    _case("coding folded", _POST + b"Transfer-Encoding:\r\n chunked\r\n" + _NO_CHUNKS, BARE),
    _case(
        "coding in HTTP/1.0",
        b"POST " + PATH + b" HTTP/1.0\r\n" + _HEAD + _CHUNKED + _NO_CHUNKS,
        400,
        BARE,
    ),
    _case("one byte more than its length", _POST + b"Content-Length: 1\r\n\r\n{}", 400),
    _case("body of a read", _GET + _HIDDEN_LENGTH + _END + HIDDEN, 200),
    _case("chunked read", _GET + _CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n", 200),
    _case(
        "body of a delete",
        b"DELETE " + PATH + b"/cgt-none HTTP/1.1\r\n" + _HEAD + b"Content-Length: 2\r\n\r\n{}",
        404,
    ),
)
"""Where does the body end? `one byte more` is followed by a bare refusal of that byte."""

CHUNKS: Final = (
    _case("bare line feeds", _chunks(b"2\n{}\n0\n\n" + HIDDEN), 400),
    _case("bare line feed after the data", _chunks(b"2\r\n{}\n0\r\n\r\n" + HIDDEN), 400),
    _case("bare line feed after the last size", _chunks(b"0\n\r\n" + HIDDEN), 400),
    _case("extension", _chunks(b"2;name=value\r\n{}\r\n0\r\n\r\n"), 400),
    _case("extension with a bare line feed", _chunks(b"2;\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case("extension of 100 KB", _chunks(b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    _case("extensions of 64 KB in all", _chunks(b"1;aaaaaa\r\n \r\n" * 8192 + b"0\r\n\r\n"), 400),
    _case("size of 2**64 + 2", _chunks(b"10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case("negative size", _chunks(b"-2\r\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case("size with a prefix", _chunks(b"0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case("empty size", _chunks(b"\r\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case("spaces after the size", _chunks(b"2  \r\n{}\r\n0\r\n\r\n"), 400),
    _case("longer than its size", _chunks(b"1\r\n{}\r\n0\r\n\r\n" + HIDDEN), 400),
    _case(
        "trailers that look like headers",
        _chunks(b"2\r\n{}\r\n0\r\nX-Request-Id: " + HIDDEN_ID.encode() + b"\r\nHost: b\r\n\r\n"),
        400,
    ),
    _case("10,000 trailers", _chunks(b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 10_000 + _END), 400),
)
"""Bodies in chunks: none is a whole request, so that even a good framing ends in 400."""

HEADS: Final = (
    _case("good", _GET + _END, 200),
    _case("empty lines before it", b"\r\n\r\n" + _GET + _END, 200),
    _case("folded header", _GET + b"X-Y: a\r\n X-Request-Id: hidden-request\r\n\r\n", BARE),
    # A single line feed ends a line for this server, as RFC 9112 2.2 allows: no header can hide
    # behind it, a second one of the same name is seen as such.
    _case("bare line feed in a header", _GET + b"X: y\nX-Request-Id: hidden-request\r\n\r\n", 400),
    _case("bare line feeds alone", (_GET + _END).replace(b"\r\n", b"\n"), 200, 400, BARE),
    _case("carriage return in a header", _GET + b"X: y\rX-Request-Id: b\r\n\r\n", BARE),
    _case("NUL in a value", _GET + b"X: y\0z\r\n\r\n", BARE),
    _case("NUL in a name", _GET + b"X\0: y\r\n\r\n", BARE),
    _case("no name", _GET + b": y\r\n\r\n", BARE),
    _case("no colon", _GET + b"just words\r\n\r\n", BARE),
    _case("space before the first header", _get(b"/livez").replace(b"Host", b" Host"), BARE),
    _case("value outside ASCII", _GET + b"X: \xff\xc3\xa9\r\n\r\n", 200),
    _case("key outside ASCII", _get(b"/livez").replace(b"<KEY>", b"\xff\xfe"), 400),
    _case("name with an underscore", _GET + b"content_length: 5\r\n\r\n", 400),
    _case("another name with an underscore", _GET + b"x_request_id: b\r\n\r\n", 400),
    _case("two ids", _GET + b"X-Request-Id: hidden-request\r\n\r\n", 400),
    _case("two keys", _GET + b"Authorization: Bearer b\r\n\r\n", 400),
    _case("two types", _POST + b"Content-Type: a/b\r\nContent-Type: a/b\r\n\r\n", 400),
    _case("no host", _get(b"/livez").replace(_HOST_LINE, b""), 400),
    _case("no host in HTTP/1.0", _get(PATH, b"HTTP/1.0").replace(_HOST_LINE, b""), 400),
    _case("probe in HTTP/1.0", _get(b"/livez", b"HTTP/1.0").replace(_HOST_LINE, b""), 200),
    _case("empty host", _get(b"/livez").replace(HOST, b""), 400),
    _case("two hosts", _GET + _HOST_LINE + _END, 400),
    _case("host of somebody else", _GET.replace(HOST, b"other.example") + _END, 400),
    _case("host with a suffix", _GET.replace(HOST, HOST + b".other.example") + _END, 400),
    _case("host with a path", _GET.replace(HOST, HOST + b"/other.example") + _END, 400),
    _case("host with a user", _GET.replace(HOST, b"other@" + HOST) + _END, 400),
    _case("host with a space", _GET.replace(HOST, HOST + b" other") + _END, 400),
    _case("host with a port", _GET.replace(HOST, HOST + b":8080") + _END, 200),
    _case("header of 1 MB", _GET + b"X: " + b"y" * 1_000_000 + b"\r\n\r\n", BARE),
    _case("5,000 headers", _GET + b"X: y\r\n" * 5_000 + _END, BARE),
    _case("100 headers", _GET + b"X: y\r\n" * 97 + _END, 200),
    _case("101 headers", _GET + b"X: y\r\n" * 98 + _END, 400, BARE),
    _case("header of 9 KB that is read", _GET + b"Prefer: " + b"y" * 9_000 + b"\r\n\r\n", 400),
)
"""What says who asks whom for what?"""

TARGETS: Final = (
    _case("HTTP/0.9", b"GET /livez\r\n", BARE),
    _case("HTTP/1.0", _get(b"/livez", b"HTTP/1.0"), 200),
    _case("HTTP/1.2", _get(b"/livez", b"HTTP/1.2"), 200, BARE),
    _case("HTTP/2.0", _get(b"/livez", b"HTTP/2.0"), BARE),
    _case("HTTP/9.9", _get(b"/livez", b"HTTP/9.9"), BARE),
    _case("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), BARE),
    _case("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 600, BARE),
    _case("every byte", bytes(range(256)), BARE),
    _case(
        "upgrade to HTTP/2",
        _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        200,
    ),
    _case(
        "upgrade to a websocket",
        _GET
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        200,
    ),
    _case("absolute form", _get(b"http://" + HOST + b"/livez"), 200, 400),
    _case("absolute form of somebody else", _get(b"http://other.example/livez"), 200, 400),
    _case("absolute form, other scheme", _get(b"ftp://" + HOST + b"/livez"), 200, 400, BARE),
    _case("authority form", _get(HOST + b":80"), 400, BARE),
    _case("asterisk", _get(b"*"), 400, BARE),
    _case("asterisk of OPTIONS", _get(b"*", method=b"OPTIONS"), 400, 405),
    _case("CONNECT", _get(HOST + b":80", method=b"CONNECT") + HIDDEN, 400, 405),
    _case("TRACE", _get(PATH, method=b"TRACE"), 405),
    _case("OPTIONS", _get(PATH, method=b"OPTIONS"), 405),
    _case("PUT", _get(PATH, method=b"PUT"), 405),
    _case("unknown method", _get(PATH, method=b"PURGE"), 405),
    _case("method in lower case", _get(PATH, method=b"get"), 405),
    _case("method of 5,000 characters", _get(PATH, method=b"A" * 5_000), 405, BARE),
    _case("method with braces", _get(PATH, method=b"G{}T"), BARE),
    _case("encoded slash", _get(b"/seedance%2fgenerations"), 400),
    _case("encoded backslash", _get(b"/seedance%5Cgenerations"), 400),
    _case("encoded NUL", _get(PATH + b"/%00"), 400),
    _case("encoded dots", _get(PATH + b"/%2e%2E/admin"), 400),
    _case("dots encoded twice", _get(PATH + b"/%252e%252e"), 404),
    _case("encoded line break", _get(PATH + b"/a%0d%0aX:%20b"), 404),
    _case("bytes that are no text", _get(PATH + b"/%ff%fe"), 404),
    _case("percent and no digits", _get(PATH + b"/%zz"), 404),
    _case("double slash", _get(b"//admin"), 400),
    _case("double slash inside", _get(b"/seedance//generations"), 400),
    _case("dot segments", _get(b"/a/../admin"), 400),
    _case("dot segments to an open path", _get(b"/docs/../seedance/generations"), 400),
    _case("one dot", _get(b"/./livez"), 400),
    _case("backslash", _get(b"/seedance\\generations"), 400),
    _case("path parameters", _get(PATH + b";a=b"), 404),
    _case("slash at the end", _get(PATH + b"/"), 404),
    _case("fragment", _get(b"/livez#part"), 200, 400, BARE),
    _case("space in the path", _get(b"/seedance/gen erations"), BARE),
    _case("tabs", b"GET\t/livez\tHTTP/1.1\r\n" + _HEAD + _END, BARE),
    _case("raw UTF-8", _get(b"/\xc3\xa9"), 400, BARE),
    _case("path of 2 KB", _get(b"/" + b"a" * 2_000), 400),
    _case("path of 200 KB", _get(b"/" + b"a" * 200_000), BARE),
    _case("query of 31 KB", _get(PATH + b"?a=" + b"b" * 31_000), 400, BARE),
    _case("query of 100 KB", _get(PATH + b"?a=" + b"b" * 100_000), BARE),
    _case("query that is no text", _get(PATH + b"?filter.model=%ff"), 400),
    _case("query with a line break", _get(PATH + b"?filter.model=%0a"), 400),
)
"""What is asked for, and in which protocol?"""

CASES: Final = (*FRAMING, *CHUNKS, *HEADS, *TARGETS)
