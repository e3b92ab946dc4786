"""What a list tells of tasks that may be ours, and that nothing in it can hurt or mislead."""

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.attempts import ListedTask
from gateway.domain.tasks import JsonObject, Observation
from gateway.errors import UpstreamFault, UpstreamUnavailable
from gateway.ids import is_upstream_task_id
from gateway.ports import ListedPage
from gateway.upstreams.answers import Answer
from gateway.upstreams.ark import ARK
from gateway.upstreams.listing import read_page
from gateway.upstreams.seedance import SEEDANCE

TASK_ID = "cgt-20261122150102-q7w2x"
CREATED_AT_S = 1_795_330_862
"""When its stamp, which is eight hours ahead of UTC, says that it was made."""
FULL: dict[str, object] = {
    "id": TASK_ID,
    "model": "doubao-seedance-1-0-pro-250528",
    "status": "running",
    "created_at": CREATED_AT_S + 1,
    "updated_at": CREATED_AT_S + 5,
    "seed": 51877,
    "execution_expires_after": 172_345,
    "safety_identifier": "u-1.sgmaaaaaaaaaaaaa",
    "resolution": "480p",
    "ratio": "16:9",
    "duration": 5,
}
DIALECTS = pytest.mark.parametrize("dialect", [ARK, SEEDANCE], ids=["ark", "seedance"])


def page_of(answer: object, page_size: int = 500, dialect: object = ARK) -> ListedPage:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    chosen = ARK if dialect is ARK else SEEDANCE
    return read_page(Answer(200, body), page_size, chosen.read_task, chosen.unwrap_task)


def listed(**fields: object) -> ListedTask:
    (item,) = page_of({"items": [{"id": TASK_ID, "status": "queued", **fields}]}).items
    return item


@DIALECTS
def test_all_that_tells_tasks_apart_is_read(dialect: object) -> None:
    page = page_of({"total": 1, "items": [FULL]}, dialect=dialect)

    assert page == ListedPage(
        items=(
            ListedTask(
                upstream_task_id=TASK_ID,
                created_at_ms=(CREATED_AT_S + 1) * 1000,
                model="doubao-seedance-1-0-pro-250528",
                status="running",
                seed=51877,
                expires_after_s=172_345,
                safety_identifier="u-1.sgmaaaaaaaaaaaaa",
                resolution="480p",
                ratio="16:9",
                duration_s=5,
                updated_at_ms=(CREATED_AT_S + 5) * 1000,
                observation=Observation(
                    "running",
                    {
                        "seed": 51877,
                        "safety_identifier": "u-1",
                        "resolution": "480p",
                        "ratio": "16:9",
                        "duration": 5,
                    },
                ),
            ),
        ),
        total=1,
        received_count=1,
    )
    assert page.is_whole


def test_a_resellers_envelope_is_opened() -> None:
    inner = {**FULL, "id": "cgt-inner-1", "status": "succeeded"}
    entry = {"task_id": TASK_ID, "status": "SUCCESS", "progress": "100%", "data": inner}

    (item,) = page_of({"data": {"items": [entry], "total": 7}}, dialect=SEEDANCE).items

    assert (item.upstream_task_id, item.status, item.seed) == (TASK_ID, "succeeded", 51877)
    assert item.safety_identifier == "u-1.sgmaaaaaaaaaaaaa"
    assert item.observation.status == "succeeded"
    assert "cgt-inner-1" not in repr(dict(item.observation.fields))


def test_what_a_young_task_does_not_show_is_not_known() -> None:
    assert listed() == ListedTask(
        TASK_ID, CREATED_AT_S * 1000, status="queued", observation=Observation("queued", {})
    )


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("seed", "seed"),
        ("execution_expires_after", "expires_after_s"),
        ("duration", "duration_s"),
        ("model", "model"),
        ("safety_identifier", "safety_identifier"),
        ("resolution", "resolution"),
        ("ratio", "ratio"),
    ],
)
@pytest.mark.parametrize(
    "value",
    [None, -1, True, 5.5, 2**32, 2**70, "", "x" * 300, "a\nb", "\x00", [5], {"a": 5}],
)
def test_an_odd_value_is_none(name: str, field: str, value: object) -> None:
    assert getattr(listed(**{name: value}), field) is None


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**32 - 1])
def test_every_seed_that_can_be_is_read(value: int) -> None:
    assert listed(seed=value).seed == value


@pytest.mark.parametrize(
    "value", [None, 0, -5, True, "1795330862", 1.5, 2**70, CREATED_AT_S * 1000, [1], {}]
)
def test_the_stamp_in_the_id_is_the_date_where_there_is_no_other(value: object) -> None:
    assert listed(created_at=value).created_at_ms == CREATED_AT_S * 1000


@pytest.mark.parametrize(
    ("task_id", "expected_s"),
    [
        ("cgt-20260606160057-6bbjd", 1_780_732_857),  # as the vendor's pages have it
        ("cgt-19700101080001-aaaaa", 1),
        ("cgt-19700101080000-aaaaa", None),
        ("cgt-00010101000000-aaaaa", None),
        ("cgt-00000000000000-aaaaa", None),
        ("cgt-20261322150102-aaaaa", None),
        ("cgt-20260230150102-aaaaa", None),
        ("cgt-20261122150161-aaaaa", None),
        ("cgt-20261122250102-aaaaa", None),
        ("cgt-2026112215010-aaaaa", None),
        ("cgt-99991231235959-aaaaa", 253_402_271_999),
        ("up-20260606160057-6bbjd", None),
        ("778899", None),
    ],
)
def test_a_stamp_is_eight_hours_ahead_of_utc(task_id: str, expected_s: int | None) -> None:
    (item,) = page_of({"items": [{"id": task_id, "status": "queued"}]}).items

    assert item.created_at_ms == (None if expected_s is None else expected_s * 1000)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "x",
        [],
        {},
        {"status": "running"},
        {"id": ""},
        {"id": "../files"},
        {"id": "a b"},
        {"id": "x" * 201},
        {"id": True},
        {"id": "a/b", "task_id": 0},
        # What was listed before, under other marks: one of the two is a lie.
        {"id": TASK_ID, "status": "running", "seed": 7},
    ],
)
def test_an_entry_that_is_no_task_leaves_the_page_incomplete(entry: object) -> None:
    page = page_of({"total": 2, "items": [FULL, entry]})

    assert [(item.upstream_task_id, item.seed) for item in page.items] == [(TASK_ID, 51877)]
    assert (page.total, page.received_count, page.is_whole) == (2, 2, False)


def test_a_task_without_a_known_status_is_listed_all_the_same() -> None:
    page = page_of({"items": [{"id": "t-1"}, {"id": "t-2", "status": "preparing"}]})

    assert [(item.upstream_task_id, item.status) for item in page.items] == [
        ("t-1", ""),
        ("t-2", "preparing"),
    ]
    assert page.is_whole


def test_what_was_not_asked_for_is_not_read() -> None:
    items = [{"id": f"t-{number}", "status": "queued"} for number in range(30)]

    page = page_of({"items": items}, page_size=10)

    assert [item.upstream_task_id for item in page.items] == [f"t-{n}" for n in range(10)]
    assert (page.received_count, page.is_whole) == (30, False)


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (0, 0),
        (7, 7),
        (-1, None),
        (True, None),
        (7.0, None),
        ("7", None),
        (None, None),
        (2**60, None),
        ([7], None),
    ],
)
def test_a_total_is_a_count_or_nothing(total: object, expected: int | None) -> None:
    assert page_of({"total": total, "items": []}) == ListedPage((), expected, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        {"items": [], "n": 10**400},
        None,
        [],
        "x",
        {},
        {"items": None},
    ],
)
def test_an_answer_that_is_no_list_is_a_fault_and_no_empty_page(answer: object) -> None:
    with pytest.raises(UpstreamUnavailable):
        page_of(answer)


def test_a_listed_task_can_be_kept_in_a_set() -> None:
    assert len({listed(seed=1), listed(seed=1), listed(seed=2)}) == 2


values: st.SearchStrategy[object] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from([TASK_ID, "running", "SUCCESS", "cgt-99999999999999-aaaaa"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FULL, "task_id", "data", "items", "total"]), inner)
    ),
    max_leaves=12,
)
tasks = st.dictionaries(st.sampled_from([*FULL, "task_id", "data", "error", "total"]), values)
answers = values | st.fixed_dictionaries(
    {"items": st.lists(tasks | values, max_size=6), "total": values}
)


@DIALECTS
@given(answer=answers, page_size=st.integers(1, 4))
def test_whatever_is_listed_is_bounded_and_of_its_type(
    dialect: object, answer: object, page_size: int
) -> None:
    try:
        page = page_of(answer, page_size, dialect)
    except UpstreamFault:
        return

    assert len(page.items) <= min(page_size, page.received_count)
    assert len({item.upstream_task_id for item in page.items}) == len(page.items)
    for item in page.items:
        assert is_upstream_task_id(item.upstream_task_id)
        wholes = (item.created_at_ms, item.seed, item.expires_after_s, item.duration_s)
        assert all(value is None or (type(value) is int and value >= 0) for value in wholes)
        words = (item.model, item.safety_identifier, item.resolution, item.ratio)
        assert all(value is None or 0 < len(value) <= 200 for value in words)
        assert item.status == item.observation.status
        assert len(item.status) <= 64


Read = Callable[[JsonObject, Sequence[str]], tuple[str, Observation]]


@pytest.mark.parametrize("read", [ARK.read_task, SEEDANCE.read_task], ids=["ark", "seedance"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"safety_identifier": ".sgmaaaaaaaaaaaaa"}, {}),
        ({"safety_identifier": "u-1.sgmaaaaaaaaaaaaa"}, {"safety_identifier": "u-1"}),
        ({"safety_identifier": "u-1"}, {"safety_identifier": "u-1"}),
        ({"safety_identifier": ["u-1"]}, {}),
        ({"execution_expires_after": 172_799}, {}),
        ({"execution_expires_after": 172_800}, {"execution_expires_after": 172_800}),
        ({"execution_expires_after": 3600}, {"execution_expires_after": 3600}),
        ({"execution_expires_after": "soon"}, {"execution_expires_after": "soon"}),
        ({"execution_expires_after": f"for {TASK_ID}"}, {}),
        ({"seed": 7}, {"seed": 7}),
    ],
)
def test_clients_are_not_shown_our_markers(
    read: Read, fields: dict[str, object], expected: object
) -> None:
    task = {"id": TASK_ID, "status": "succeeded", **fields}

    shown = read(task, ())[1].fields

    assert {name: shown[name] for name in fields if name in shown} == expected
