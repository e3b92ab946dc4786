"""Lists, cancelling and deleting."""

import pytest

from tests.sandbox.conftest import Opener
from tests.sandbox.support import ARK, PRO, SEEDANCE_2, Upstream

DAY_S = 86_400


async def test_lists_newest_first_in_pages(upstream: Upstream) -> None:
    task_ids = [await upstream.create() for _ in range(5)]

    whole = await upstream.list()
    pages = [await upstream.list(f"?page_num={number}&page_size=2") for number in (1, 2, 3, 4)]

    assert [item["id"] for item in whole["items"]] == task_ids[::-1]
    assert whole["total"] == 5
    assert [page["total"] for page in pages] == [5, 5, 5, 5]
    listed = [item["id"] for page in pages for item in page["items"]]
    assert listed == task_ids[::-1]


async def test_shows_twenty_unless_asked(upstream: Upstream) -> None:
    for _ in range(21):
        await upstream.create()

    assert len((await upstream.list())["items"]) == 20


async def test_items_are_what_a_read_shows(upstream: Upstream) -> None:
    done = await upstream.finish()

    assert (await upstream.list())["items"] == [done]


async def test_filters(upstream: Upstream) -> None:
    done = await upstream.finish()
    failed = await upstream.finish("sandbox:fail")
    expired = await upstream.finish("sandbox:expire")
    flex = await upstream.create(service_tier="flex")
    other = await upstream.create("sandbox:queued=0 sandbox:run=100", model=SEEDANCE_2)
    cancelled = await upstream.create()
    await upstream.delete(cancelled)

    async def ids(query: str) -> set[str]:
        page = await upstream.list(query)
        assert page["total"] == len(page["items"])
        return {item["id"] for item in page["items"]}

    assert await ids("?filter.status=succeeded") == {done["id"]}
    assert await ids("?filter.status=failed") == {failed["id"]}
    assert await ids("?filter.status=expired") == {expired["id"]}
    assert await ids("?filter.status=queued") == {flex}
    assert await ids("?filter.status=running") == {other}
    assert await ids("?filter.status=cancelled") == {cancelled}
    assert await ids(f"?filter.model={SEEDANCE_2}") == {other}
    assert await ids("?filter.service_tier=flex") == {flex}
    wanted = {done["id"], other}
    assert await ids("?" + "&".join(f"filter.task_ids={each}" for each in wanted)) == wanted
    # The comma form, which some clients try, is one id that nobody has.
    assert await ids(f"?filter.task_ids={done['id']},{other}") == set()
    assert await ids(f"?filter.task_ids={done['id']}&filter.status=failed") == set()


@pytest.mark.parametrize(
    "query",
    [
        "page_num=0",
        "page_num=501",
        "page_num=x",
        "page_size=0",
        "page_size=501",
        "page_size=-1",
        "filter.status=done",
        "&".join(f"filter.task_ids=cgt-{index}" for index in range(501)),
        "&".join(f"x{index}=1" for index in range(1001)),
    ],
)
async def test_refuses_a_query_out_of_range(upstream: Upstream, query: str) -> None:
    answer = await upstream.http.get(f"{ARK}?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "InvalidParameter"


async def test_knows_a_task_for_seven_days(upstream: Upstream) -> None:
    old = await upstream.create()
    await upstream.advance(6.9 * DAY_S)
    young = await upstream.create()

    assert (await upstream.list())["total"] == 2
    await upstream.advance(0.2 * DAY_S)

    assert [item["id"] for item in (await upstream.list())["items"]] == [young]
    assert (await upstream.http.get(f"{ARK}/{old}")).status_code == 404
    assert (await upstream.truth())["creates"] == 2


async def test_cancels_a_queued_task_and_forgets_it_after_a_day(upstream: Upstream) -> None:
    task_id = await upstream.create()

    answer = await upstream.delete(task_id)
    assert (answer.status_code, answer.json()) == (200, {})
    assert await upstream.status(task_id) == "cancelled"
    again = await upstream.delete(task_id)
    assert again.status_code == 409
    await upstream.advance(0.99 * DAY_S)
    assert await upstream.status(task_id) == "cancelled"
    await upstream.advance(0.02 * DAY_S)
    gone = await upstream.http.get(f"{ARK}/{task_id}")

    assert gone.status_code == 404
    assert (await upstream.list())["total"] == 0
    (task,) = (await upstream.truth())["tasks"]
    assert (task["status"], task["billed"]) == ("cancelled", False)


async def test_does_not_delete_a_running_task(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:run=1000")
    await upstream.advance(50)

    answer = await upstream.delete(task_id)

    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "InvalidAction.RunningTaskDeletion"
    assert "currently running" in answer.json()["error"]["message"]
    assert await upstream.status(task_id) == "running"


@pytest.mark.parametrize("words", ["a boat", "sandbox:fail", "sandbox:expire"])
async def test_forgets_a_finished_task(upstream: Upstream, words: str) -> None:
    done = await upstream.finish(words)

    answer = await upstream.delete(done["id"])
    again = await upstream.delete(done["id"])

    assert (answer.status_code, answer.json()) == (200, {})
    assert again.status_code == 404
    assert (await upstream.http.get(f"{ARK}/{done['id']}")).status_code == 404
    assert (await upstream.list())["total"] == 0
    (task,) = (await upstream.truth())["tasks"]
    assert task["deleted"] is True
    assert task["billed"] is (words == "a boat")


async def test_an_unknown_task_is_404_for_reads_and_deletes(upstream: Upstream) -> None:
    for method in ("GET", "DELETE"):
        answer = await upstream.http.request(method, f"{ARK}/cgt-20261122000000-abcde")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"].startswith("NotFound.")


async def test_there_is_no_cancel_path(upstream: Upstream) -> None:
    task_id = await upstream.create()

    error = await upstream.refuse({}, f"{ARK}/{task_id}/cancel")

    assert (error["code"], error["param"]) == ("MissingParameter", "model")
    assert await upstream.status(task_id) == "queued"


async def test_counts_every_request_received(upstream: Upstream) -> None:
    task_id = await upstream.create()
    await upstream.get(task_id)
    await upstream.get(task_id)
    await upstream.list()
    await upstream.http.delete(f"{ARK}/unknown")
    await upstream.http.get(f"{ARK}/unknown", headers={"authorization": ""})

    truth = await upstream.truth()

    assert truth["reads"] == {"get": 3, "list": 1, "delete": 1}
    assert truth["creates"] == 1


async def test_lists_only_the_accounts_own(open_upstream: Opener) -> None:
    keys = {"sk-a": "red", "sk-b": "blue"}
    async with open_upstream(keys=keys, key="sk-a") as upstream:
        await upstream.create(model=PRO)
        upstream.http.headers["authorization"] = "Bearer sk-b"
        assert (await upstream.list())["total"] == 0
