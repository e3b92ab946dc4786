import time

import pytest

from gateway.errors import InvalidRequest
from gateway.http.query import (
    STATUSES,
    is_match,
    parse_query,
    read_task_query,
    read_wait_s,
)
from gateway.services.status import TaskQuery


def read(raw: bytes) -> TaskQuery:
    return read_task_query(parse_query(raw), 500)


def refused(raw: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(raw)
    return caught.value


def test_an_empty_query_asks_for_the_first_twenty_of_everything() -> None:
    assert read(b"") == TaskQuery(page_num=1, page_size=20)


def test_every_filter_is_read() -> None:
    query = read(
        b"page_num=3&page_size=500&filter.status=queued&filter.status=expired"
        b"&filter.task_ids=a%2Cb&filter.task_ids=c&filter.model=m%20n&filter.service_tier=flex&x=y"
    )

    assert query == TaskQuery(3, 500, ("queued", "expired"), ("a,b", "c"), "m n", "flex")


def test_the_six_public_statuses_are_allowed_and_named() -> None:
    assert STATUSES == ("queued", "running", "succeeded", "failed", "cancelled", "expired")
    for status in STATUSES:
        assert read(f"filter.status={status}".encode()).statuses == (status,)
    error = refused(b"filter.status=unknown")
    assert error.param == "filter.status"
    assert all(status in error.message for status in STATUSES)


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"page_num=0", "page_num"),
        (b"page_num=501", "page_num"),
        (b"page_num=", "page_num"),
        (b"page_num=1.0", "page_num"),
        (b"page_num=%2B1", "page_num"),
        (b"page_num=%D9%A1", "page_num"),
        (b"page_num=1&page_num=2", "page_num"),
        (b"page_num=" + b"9" * 30_000, "page_num"),
        (b"page_size=0", "page_size"),
        (b"page_size=501", "page_size"),
        (b"filter.status=", "filter.status"),
        (b"filter.status=queued,running", "filter.status"),
        (b"filter.task_ids=" + b"a" * 257, "filter.task_ids"),
        (b"&".join([b"filter.task_ids=a"] * 501), "filter.task_ids"),
        (b"filter.model=" + b"a" * 257, "filter.model"),
        (b"filter.model=a%00b", "query"),
        (b"filter.model=a%0Ab", "query"),
        (b"filter.model=%ff", "query"),
        (b"a%0d=b", "query"),
        (b"&".join([b"a=b"] * 1001), "query"),
    ],
)
def test_a_wrong_value_is_refused_by_name_and_never_repeated(raw: bytes, param: str) -> None:
    error = refused(raw)

    assert error.param == param
    assert f"parameter {param} " in error.message
    assert "allowed is" in error.message
    assert len(error.message) < 300


def test_empty_texts_filter_nothing() -> None:
    assert read(b"filter.model=&filter.service_tier=") == TaskQuery()


def wait(raw: bytes = b"", prefer: bytes | None = None) -> float | None:
    return read_wait_s(parse_query(raw), prefer, 60)


def test_a_wait_comes_from_the_query_or_the_header() -> None:
    assert wait() is None
    assert wait(b"wait=30") == 30
    assert wait(b"wait=0") == 0
    assert wait(b"wait=0.25") == 0.25
    assert wait(prefer=b"wait=10") == 10
    assert wait(prefer=b'respond-async, Wait = "10"; x') == 10
    assert wait(prefer=b"respond-async") is None
    assert wait(prefer=b"await=3") is None
    assert wait(b"wait=1", prefer=b"wait=nonsense") == 1


@pytest.mark.parametrize("text", [b"61", b"60.001", b"-1", b"x", b"", b"1e1", b"inf", b"1.", b" 1"])
def test_a_wrong_wait_is_refused_by_name(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="0 to 60 seconds") as caught:
        wait(b"wait=" + text.replace(b" ", b"+"))

    assert caught.value.param == "wait"


def test_a_preference_that_cannot_be_met_is_no_error() -> None:
    assert wait(prefer=b"wait=100") == 60
    for text in (b"x", b"-1", b"", b"1e1"):
        assert wait(prefer=b"wait=" + text) is None


@pytest.mark.parametrize(
    ("condition", "is_one"),
    [
        (b'"3-abc"', True),
        (b'W/"3-abc"', True),
        (b'"x", "3-abc"', True),
        (b'W/"x",W/"3-abc" , "y"', True),
        (b"*", True),
        (b" * ", True),
        (b"", False),
        (b"3-abc", False),
        (b'"3-ABC"', False),
        (b'"3-abc', False),
        (b'"x3-abc"', False),
        (b'"*"', False),
    ],
)
def test_a_condition_is_compared_weakly(condition: bytes, is_one: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_match(condition, '"3-abc"') is is_one


def test_hostile_values_cost_little() -> None:
    started_s = time.process_time()
    is_match(b'"' * 8192, '"3-abc"')
    is_match(b'W/"' * 2700, '"3-abc"')
    wait(prefer=b"wait" * 2000)
    wait(prefer=b",wait   " * 1000)
    with pytest.raises(InvalidRequest):
        parse_query(b"&" * 30_000)

    assert time.process_time() - started_s < 0.5
