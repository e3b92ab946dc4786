"""Hostile HTTP through real fronts: what they pass on, the gateway reads as they do."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.deploy.test_front import FRONTS
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway
from tests.support.hostile import CASES, Case, fill_in
from tests.support.raw_http import QUIET_S, LogReader, RawConnection, converse

START_S_MAX = 10.0
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Request-Id: fence\r\n\r\n"
HANDFUL = frozenset(
    {
        "length and chunked",
        "different lengths",
        "equal lengths",
        "list of lengths",
        "coding gzip, chunked",
        "coding twice",
        "one byte more than its length",
        "body of a read",
        "bare line feed after the data",
        "extension with a bare line feed",
        "size of 2**64 + 2",
        "trailers that look like headers",
        "folded header",
        "bare line feed in a header",
        "two hosts",
        "name with an underscore",
        "absolute form of somebody else",
        "encoded slash",
        "dot segments to an open path",
        "upgrade to HTTP/2",
    }
)
OTHER_PROTOCOLS = frozenset({"HTTP/0.9", "preface of HTTP/2"})
"""A front may speak them itself: nginx the one, HAProxy the other."""
CUT_OFF = 499
"""Logged where the front stopped passing a body on, because it found it badly framed."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("fronted"), captured) as gateway:
        yield gateway


@pytest.fixture(scope="module", params=sorted(FRONTS))
def front(
    gateway: Gateway, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where the front listens, as docs/deploy.md sets it up."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    port = urlsplit(gateway.url).port
    assert port is not None
    with subprocess.Popen(
        FRONTS[request.param](folder, folder / "door", port), stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for_answer(folder / "door")
            yield f"unix:{folder / 'door'}"
        finally:
            process.terminate()


def wait_for_answer(door: Path) -> None:
    deadline_s = time.monotonic() + START_S_MAX
    while True:
        try:
            if converse(f"unix:{door}", LIVEZ, quiet_s=0).statuses == [200]:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline_s, "the front does not answer"
        time.sleep(0.02)


def check_agreement(gateway: Gateway, front: str, case: Case) -> None:
    """Each request that the gateway answered is one that the front relayed an answer of."""
    assert gateway.key is not None
    log = LogReader(gateway.log_path)
    log.skip()

    with RawConnection(front) as connection:
        connection.send(fill_in(case.sent, "case", gateway.key))
        connection.read_replies(1)
        connection.read_for(QUIET_S)
        replies = connection.replies()

    told = [reply.request_id for reply in replies if reply.request_id]
    assert converse(gateway.url, LIVEZ, quiet_s=0).statuses == [200]
    seen = [
        line
        for line in log.read_until(["fence", *told])
        if line["event"] == "http.request_finished"
        and line["request_id"] != "fence"
        and line["http.route"] != "/readyz"  # HAProxy looks in of its own accord
    ]
    statuses = [int(str(line["http.response.status_code"])) for line in seen]
    ids = [line["request_id"] for line in seen]
    assert [one for one, status in zip(ids, statuses, strict=True) if status != CUT_OFF] == told
    assert {one for one, status in zip(ids, statuses, strict=True) if status == CUT_OFF} <= {"case"}
    assert all(status < 500 for status in statuses)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in HANDFUL], ids=lambda case: case.name
)
def test_front_and_gateway_count_the_same_requests(
    gateway: Gateway, front: str, case: Case
) -> None:
    check_agreement(gateway, front, case)


@pytest.mark.long
def test_front_and_gateway_count_the_same_requests_in_the_whole_table(
    gateway: Gateway, front: str
) -> None:
    for case in CASES:
        if case.name not in OTHER_PROTOCOLS:
            check_agreement(gateway, front, case)


def test_the_handful_is_in_the_table() -> None:
    assert {case.name for case in CASES} >= HANDFUL
