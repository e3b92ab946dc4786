"""The Upstream port, markers: what goes out with a submit comes back by a list."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr

from gateway.config import UpstreamConfig
from gateway.domain.attempts import ListedTask, Markers
from gateway.domain.markers import MarkerPolicy, find_safety_marker, make_markers
from gateway.domain.requests import NormalizedRequest
from gateway.errors import GatewayError, UpstreamAmbiguous, UpstreamUnavailable
from gateway.ports import ListedPage, Upstream
from gateway.sandbox.server import run_sandbox
from gateway.sandbox.settings import SandboxLimits, SandboxSettings
from gateway.upstreams.client import Operation, Outcome
from gateway.upstreams.registry import open_upstream
from tests.support.adapters import (
    ATTEMPT_ID,
    CANARY,
    DIALECTS,
    OTHER_ID,
    PATHS,
    REQUEST,
    TASK_ID,
    Opened,
    opened,
    vendor_error,
)
from tests.support.clock import FakeClock
from tests.support.raw_upstream import RawUpstream, Script, always, answer_bytes, json_answer
from tests.support.requests import PRO, a_text, an_image, normalized
from tests.support.wire import closes_after_reading_all

EVERY = MarkerPolicy(seed=True, expires_after=True, safety_identifier=True)
MARKERS = Markers(seed=51877, expires_after_s=172_345, safety_identifier="sgmaaaaaaaaaaaaa")
CALLBACK_URL = "https://gateway.example/callbacks/k7n3q2"
NO_RATES = SandboxLimits(rpm=None, rpm_4k=None, get_per_s=None, list_per_s=None, delete_per_s=None)


async def submit(
    upstream: Upstream,
    markers: Markers,
    request: NormalizedRequest = REQUEST,
    callback_url: str | None = None,
) -> str:
    submission = await upstream.submit(
        "main",
        PRO,
        request,
        draft_task_id=None,
        attempt_id=ATTEMPT_ID,
        markers=markers,
        callback_url=callback_url,
    )
    return submission.upstream_task_id


@DIALECTS
async def test_a_submit_carries_its_markers_and_nothing_else_new(dialect: str) -> None:
    async with RawUpstream(always(json_answer({"id": TASK_ID}))) as peer:
        async with opened(dialect, peer) as one:
            await submit(one.upstream, MARKERS, callback_url=CALLBACK_URL)

        (request,) = peer.requests
        text, fields = ("Paper boats", {"duration": 5, "seed": 51877})
        if dialect == "seedance":
            text, fields = ("Paper boats --duration 5 --seed 51877", {})
        assert request.json() == {
            "model": PRO,
            "content": [a_text(text), an_image()],
            **fields,
            "execution_expires_after": 172_345,
            "safety_identifier": ".sgmaaaaaaaaaaaaa",
            "callback_url": CALLBACK_URL,
        }
        assert request.header("x-client-request-id") == ATTEMPT_ID


@DIALECTS
async def test_a_clients_own_words_win(dialect: str) -> None:
    given = normalized(
        a_text("Boats"),
        seed=7,
        execution_expires_after=3600,
        safety_identifier="u-1",
        callback_url="https://client.example/hook",
    )
    async with RawUpstream(always(json_answer({"id": TASK_ID}))) as peer:
        async with opened(dialect, peer) as one:
            await submit(one.upstream, MARKERS, given)
            await submit(one.upstream, Markers(), given)

        marked, plain = (request.json() for request in peer.requests)
        assert isinstance(plain, dict)
        assert marked == {**plain, "safety_identifier": "u-1.sgmaaaaaaaaaaaaa"}
        assert "callback_url" not in plain


async def test_of_two_callback_addresses_only_ours_is_sent() -> None:
    smuggled = replace(REQUEST, extra={"callback_url": "https://x.example"})
    async with RawUpstream(always(json_answer({"id": TASK_ID}))) as peer:
        async with opened("ark", peer) as one:
            await submit(one.upstream, Markers(), smuggled, callback_url=CALLBACK_URL)

        (request,) = peer.requests
        assert request.body.count(b'"callback_url"') == 1
        assert CALLBACK_URL.encode() in request.body


@DIALECTS
async def test_a_page_of_the_list_is_one_read(dialect: str) -> None:
    entries = [
        {"id": TASK_ID, "status": "running", "created_at": 1_795_330_900, "seed": 51877},
        {"id": OTHER_ID, "status": "queued", "model": PRO},
        {"id": "a/b", "status": "queued"},
    ]
    answer = json_answer({"total": 41, "items": entries})
    async with RawUpstream(always(answer)) as peer, opened(dialect, peer) as one:
        page = await one.upstream.list_tasks("main", page_num=2, page_size=20)

        first, second = page.items
        assert (page.total, page.received_count, page.is_whole) == (41, 3, False)
        assert (first.upstream_task_id, first.seed, first.created_at_ms) == (
            TASK_ID,
            51877,
            1_795_330_900_000,
        )
        assert (second.upstream_task_id, second.model) == (OTHER_ID, PRO)
        (request,) = peer.requests
        assert (request.method, request.path) == ("GET", PATHS[dialect])
        assert request.query == {"page_num": ["2"], "page_size": ["20"]}
        assert request.header("authorization") == f"Bearer {CANARY}"
        assert one.outcomes() == [(Operation.LIST, Outcome.OK)]


async def test_another_tier_is_asked_for_by_its_name() -> None:
    async with RawUpstream(always(json_answer({"total": 0, "items": []}))) as peer:
        async with opened("ark", peer) as one:
            page = await one.upstream.list_tasks(
                "second", page_num=1, page_size=500, service_tier="flex"
            )

        assert page == ListedPage((), 0, 0)
        (request,) = peer.requests
        assert request.query == {
            "page_num": ["1"],
            "page_size": ["500"],
            "filter.service_tier": ["flex"],
        }
        assert request.header("authorization") == "Bearer another"


@pytest.mark.parametrize(
    ("page_num", "page_size"), [(0, 10), (501, 10), (1, 0), (1, 501), (-1, -1)]
)
async def test_a_page_that_no_upstream_has_is_not_asked_for(page_num: int, page_size: int) -> None:
    async with RawUpstream(always(b"")) as peer, opened("ark", peer) as one:
        with pytest.raises(ValueError, match="1 to 500"):
            await one.upstream.list_tasks("main", page_num=page_num, page_size=page_size)

        assert peer.requests == []


BROKEN: dict[str, Script] = {
    "hangs up": closes_after_reading_all,
    "no json": always(answer_bytes(b"<html>")),
    "no list": always(json_answer({"items": None})),
    "too large": always(answer_bytes(b" " * 5_000_000)),
    "a server error": always(json_answer(vendor_error("InternalServiceError"), status=500)),
}


@DIALECTS
@pytest.mark.parametrize("case", BROKEN)
async def test_a_list_that_fails_is_a_fault_and_is_not_repeated(dialect: str, case: str) -> None:
    async with RawUpstream(BROKEN[case]) as peer, opened(dialect, peer) as one:
        with pytest.raises(GatewayError) as caught:
            await one.upstream.list_tasks("main", page_num=1, page_size=10)

        assert type(caught.value) is UpstreamUnavailable
        assert CANARY not in str(caught.value)
        assert one.outcomes() == [(Operation.LIST, Outcome.UNAVAILABLE)]
        assert len(peer.requests) == 1


async def test_lists_of_all_kinds_share_one_budget() -> None:
    async with RawUpstream(always(json_answer({"items": []}))) as peer, opened("ark", peer) as one:
        for page_num in (1, 2, 3):
            await one.upstream.list_tasks("main", page_num=page_num, page_size=10)
        await one.upstream.observe_many("main", [TASK_ID])
        assert sum(one.clock.slept_s) == pytest.approx(3 * 1.05, abs=0.01)

        one.clock.slept_s.clear()
        await one.upstream.list_tasks("second", page_num=1, page_size=10)
        assert one.clock.slept_s == []


@asynccontextmanager
async def sandboxed(folder: Path, *profiles: str) -> AsyncIterator[tuple[Opened, str]]:
    """Yield an adapter, and the URL of the sandbox that it speaks to."""
    settings = SandboxSettings(
        data_dir=folder, profiles=profiles, limits=NO_RATES, media_fetch_s=0.0, time_scale=1
    )
    async with run_sandbox(settings) as sandbox:
        config = UpstreamConfig.model_validate(
            {
                "name": "one",
                "base_url": f"{sandbox.url}/api/v3",
                "credentials": [{"name": "main", "env": "UNUSED"}],
            }
        )
        clock = FakeClock()
        upstream = open_upstream(
            config, {"main": SecretStr(CANARY)}, clock=clock, on_call=lambda _record: None
        )
        try:
            yield Opened(upstream, clock), sandbox.url
        finally:
            await upstream.close()


async def put(url: str, path: str, body: object) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        (await http.put(f"{url}/_sandbox/{path}", json=body)).raise_for_status()


async def truth_of(url: str) -> list[dict[str, object]]:
    async with httpx.AsyncClient(trust_env=False) as http:
        tasks: list[dict[str, object]] = (await http.get(f"{url}/_sandbox/truth")).json()["tasks"]
        return tasks


async def first_page(one: Opened) -> ListedPage:
    return await one.upstream.list_tasks("main", page_num=1, page_size=500)


def marks_of(item: ListedTask) -> tuple[int | None, int | None, str | None]:
    return item.seed, item.expires_after_s, find_safety_marker(item.safety_identifier)


async def test_a_task_whose_answer_was_lost_is_found_by_its_markers(tmp_path: Path) -> None:
    markers = make_markers(REQUEST, Random(1).randbytes, EVERY)
    async with sandboxed(tmp_path) as (one, url):
        await submit(one.upstream, make_markers(REQUEST, Random(2).randbytes, EVERY))
        rule = {"operation": "create", "at": "after_create", "action": "reset", "times": 1}
        await put(url, "faults", {"rules": [rule]})
        with pytest.raises(UpstreamAmbiguous):
            await submit(one.upstream, markers)

        page = await first_page(one)

        made = {task["id"]: task for task in await truth_of(url)}
        found = [
            item
            for item in page.items
            if marks_of(item) == (markers.seed, markers.expires_after_s, markers.safety_identifier)
        ]
        assert (len(page.items), page.total, page.is_whole) == (2, 2, True)
        assert len(found) == 1
        truth = made[found[0].upstream_task_id]
        assert truth["asked_seed"] == markers.seed
        created_ms = truth["created_ms"]
        assert isinstance(created_ms, int)
        assert found[0].created_at_ms == created_ms // 1000 * 1000
        # Its adoption shows the client what the client gave.
        assert dict(found[0].observation.fields) == {
            "seed": markers.seed,
            "service_tier": "default",
        }


async def test_markers_do_not_change_what_is_made(tmp_path: Path) -> None:
    given = normalized(a_text("sandbox:run=1 Boats --dur 5 --rs 480p"), safety_identifier="u-1")
    async with sandboxed(tmp_path) as (one, url):
        await submit(one.upstream, make_markers(given, Random(1).randbytes, EVERY), given)
        await submit(one.upstream, Markers(), given)

        marked, plain = await truth_of(url)
    marks = ("seed", "asked_seed", "safety_identifier", "execution_expires_after")
    own = ("id", "created_at", "created_ms", "updated_at", "request_id", "request_hash")
    differing = {name for name in marked if marked[name] != plain[name]}
    assert differing <= {*marks, *own}
    assert marked["prompt_hash"] == plain["prompt_hash"]


@pytest.mark.parametrize("profile", ["no_echo", "partial_echo"])
async def test_an_upstream_without_echo_lists_the_date_at_least(
    tmp_path: Path, profile: str
) -> None:
    async with sandboxed(tmp_path, profile) as (one, url):
        made = await submit(one.upstream, Markers(seed=51877, safety_identifier="sgm" + 13 * "a"))

        (item,) = (await first_page(one)).items

        (truth,) = await truth_of(url)
        assert item.upstream_task_id == made
        assert (item.seed, item.safety_identifier) == (None, None)
        created_ms = truth["created_ms"]
        assert isinstance(created_ms, int)
        assert item.created_at_ms == created_ms // 1000 * 1000


async def test_pages_follow_each_other(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as (one, _):
        made = [await submit(one.upstream, Markers(seed=number)) for number in range(1, 6)]

        pages = [
            await one.upstream.list_tasks("main", page_num=number, page_size=2)
            for number in (1, 2, 3, 4)
        ]

    assert [len(page.items) for page in pages] == [2, 2, 1, 0]
    assert all(page.total == 5 and page.is_whole for page in pages)
    seen = [item.upstream_task_id for page in pages for item in page.items]
    assert sorted(seen) == sorted(made)


async def test_a_tier_may_have_a_list_of_its_own(tmp_path: Path) -> None:
    slow = normalized(a_text("Boats"), service_tier="flex")
    async with sandboxed(tmp_path, "tier_filter") as (one, _):
        fast_id = await submit(one.upstream, Markers(seed=1))
        slow_id = await submit(one.upstream, Markers(seed=2), slow)

        default = await first_page(one)
        flex = await one.upstream.list_tasks("main", page_num=1, page_size=10, service_tier="flex")

    assert [item.upstream_task_id for item in default.items] == [fast_id]
    assert [item.upstream_task_id for item in flex.items] == [slow_id]


async def test_a_callback_address_reaches_the_upstream(tmp_path: Path) -> None:
    async with RawUpstream(always(answer_bytes(b"", status=204))) as receiver:
        callback_url = f"http://127.0.0.1:{receiver.port}/callbacks/k7n3q2"
        async with sandboxed(tmp_path) as (one, _):
            made = await submit(one.upstream, Markers(), callback_url=callback_url)
            await receiver.wait_for_requests(1)

        request = receiver.requests[0]
        assert (request.method, request.path) == ("POST", urlsplit(callback_url).path)
        told = request.json()
        assert isinstance(told, dict)
        assert told["id"] == made
