import random
import re

from gateway.ids import IdMaker, is_request_id, is_task_id, is_upstream_task_id

NOW_MS = 1_795_330_862_123


def test_a_task_id_has_the_contracts_shape_and_a_utc_stamp() -> None:
    task_id = IdMaker().task_id(NOW_MS)

    assert re.fullmatch(r"cgt-20261122070102-[a-z2-7]{20}", task_id)
    assert is_task_id(task_id)


def test_vendor_ids_are_not_ours() -> None:
    assert not is_task_id("cgt-20261122150102-q7w2x")


def test_ids_sort_by_time() -> None:
    source = random.Random(3)
    maker = IdMaker(source.randbytes)
    ids = [maker.new("evt", NOW_MS + step) for step in (0, 1, 31, 32, 1000, 10**6, 10**9)]

    assert ids == sorted(ids)
    assert all(re.fullmatch(r"evt_[a-z2-7]{26}", each) for each in ids)


def test_what_goes_into_an_upstreams_path_cannot_leave_it() -> None:
    assert is_upstream_task_id("cgt-20261122150102-q7w2x")
    assert is_upstream_task_id("task_AbC:1.2")
    for text in ("", "a/b", "../x", "a..b", "a%2fb", "a?b", "a b", "a\n", ".a", "x" * 201):
        assert not is_upstream_task_id(text)


def test_a_request_id_is_short_and_safe() -> None:
    assert is_request_id("a" * 128)
    for text in ("", "a" * 129, "a b", "a\r\nb", "\u00e4", "-a", "a\n"):
        assert not is_request_id(text)
