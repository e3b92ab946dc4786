"""The vendor's own SDKs, unchanged, with another base URL and key."""

import importlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support import published
from tests.support.captured import Captured
from tests.support.films import read_film
from tests.support.gateway import ENDED, Gateway, JsonObject, run_gateway, wait_for_end

COLLECTION = "/api/v3/contents/generations/tasks"
OTHER_MODEL = "doubao-seedance-1-0-pro-fast-251015"
"""An upstream's places are by model: tasks that never end take none from the others."""
UNKNOWN_ID = "cgt-20260101000000-aaaaaaaaaaaaaaaaaaaa"
OVERLOADED: JsonObject = {"error": {"code": "ServerOverloaded", "message": "Busy."}}


@pytest.fixture(params=["volcenginesdkarkruntime", "byteplussdkarkruntime"], scope="module")
def sdk(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


@pytest.fixture
def ark(sdk: Any, gateway: Gateway) -> Iterator[Any]:
    with open_ark(sdk, gateway) as ark:
        yield ark


@pytest.fixture(scope="module")
def upset_gateway(
    tmp_path_factory: pytest.TempPathFactory, captured: Captured
) -> Iterator[Gateway]:
    """A gateway whose sandbox may be given faults."""
    with run_gateway(tmp_path_factory.mktemp("upset"), captured) as gateway:
        yield gateway


def open_ark(sdk: Any, gateway: Gateway, key: str | None = None, max_retries: int = 0) -> Any:
    return sdk.Ark(
        api_key=key or gateway.key,
        base_url=f"{gateway.url}/api/v3",
        max_retries=max_retries,
        http_client=httpx.Client(trust_env=False),
    )


def create(ark: Any, words: str = published.AT_ONCE, model: str = published.MODEL) -> str:
    """Return the id of a task made with typed fields, the many others being sent as null."""
    body = {**published.make_body(words), "model": model}
    task_id: str = ark.content_generation.tasks.create(
        **body, resolution="480p", ratio="16:9", duration=5
    ).id
    return task_id


def count_posts(gateway: Gateway) -> float:
    return gateway.count("gateway_http_requests_total", method="POST")


def count_creates(gateway: Gateway) -> int:
    creates = gateway.read_truth()["creates"]
    assert isinstance(creates, int)
    return creates


def test_a_task_is_created_polled_to_its_end_and_its_video_plays(sdk: Any, ark: Any) -> None:
    tasks = ark.content_generation.tasks
    task_id = create(ark)

    task = tasks.get(task_id=task_id)
    while task.status not in ENDED:
        task = tasks.get(task_id=task_id, extra_headers={"Prefer": "wait=30"})

    assert type(task).__module__.startswith(sdk.__name__)
    assert (task.id, task.model, task.status) == (task_id, published.MODEL, "succeeded")
    assert (task.resolution, task.ratio, task.duration) == ("480p", "16:9", 5)
    assert task.usage.completion_tokens == task.usage.total_tokens == 864 * 480 * 121 // 1024
    film = read_film(httpx.get(task.content.video_url, trust_env=False).content)
    assert (film.width, film.height, film.frame_count) == (864, 480, 121)


async def test_the_asynchronous_client_creates_and_reads(sdk: Any, gateway: Gateway) -> None:
    async with sdk.AsyncArk(
        api_key=gateway.key,
        base_url=f"{gateway.url}/api/v3/",
        http_client=httpx.AsyncClient(trust_env=False),
    ) as ark:
        tasks = ark.content_generation.tasks
        created = await tasks.create(**published.make_body())
        task = await tasks.get(task_id=created.id)

    assert task.id == created.id
    assert task.status in {"queued", "running", "succeeded"}


def test_a_list_is_filtered_by_ids_model_and_status(ark: Any) -> None:
    ids = {create(ark, published.FOREVER_QUEUED) for _ in range(2)}
    create(ark)

    page = ark.content_generation.tasks.list(
        page_num=1, page_size=10, task_ids=[*ids, UNKNOWN_ID], model=published.MODEL
    )
    none = ark.content_generation.tasks.list(task_ids=list(ids), status="failed")
    one = ark.content_generation.tasks.list(page_size=1, task_ids=list(ids))

    assert page.total == 2
    assert {item.id for item in page.items} == ids
    assert (none.total, list(none.items)) == (0, [])
    assert (one.total, len(one.items)) == (2, 1)


def test_deleting_a_queued_task_cancels_it(ark: Any) -> None:
    task_id = create(ark, published.FOREVER_QUEUED)

    ark.content_generation.tasks.delete(task_id=task_id)

    assert ark.content_generation.tasks.get(task_id=task_id).status == "cancelled"


def test_deleting_a_finished_task_takes_it_out_of_view(
    sdk: Any, ark: Any, client: httpx.Client
) -> None:
    task_id = create(ark)
    wait_for_end(client, f"{COLLECTION}/{task_id}")

    ark.content_generation.tasks.delete(task_id=task_id)

    with pytest.raises(sdk._exceptions.ArkNotFoundError):
        ark.content_generation.tasks.get(task_id=task_id)


def test_deleting_a_running_task_is_a_conflict(sdk: Any, ark: Any, client: httpx.Client) -> None:
    task_id = create(ark, published.FOREVER_RUNNING, OTHER_MODEL)
    task: JsonObject = {"status": "queued"}
    while task["status"] == "queued":
        task = client.get(f"{COLLECTION}/{task_id}", params={"wait": 30}).json()

    with pytest.raises(sdk._exceptions.ArkConflictError) as raised:
        ark.content_generation.tasks.delete(task_id=task_id)

    assert raised.value.code == "InvalidAction.RunningTaskDeletion"


def test_a_wrong_value_is_a_bad_request_that_names_the_field(sdk: Any, ark: Any) -> None:
    with pytest.raises(sdk._exceptions.ArkBadRequestError) as raised:
        ark.content_generation.tasks.create(**published.make_body(duration=77))

    assert (raised.value.code, raised.value.param) == ("InvalidParameter", "duration")
    assert raised.value.type == "BadRequest"
    assert "Request id: " in raised.value.message


def test_a_refusal_of_the_vendor_keeps_its_code(sdk: Any, ark: Any) -> None:
    with pytest.raises(sdk._exceptions.ArkBadRequestError) as raised:
        create(ark, "sandbox:input-moderation")

    assert raised.value.code == "InputTextSensitiveContentDetected"


def test_a_wrong_key_is_an_authentication_error(sdk: Any, gateway: Gateway) -> None:
    with (
        open_ark(sdk, gateway, key="sg_test_nobody") as ark,
        pytest.raises(sdk._exceptions.ArkAuthenticationError) as raised,
    ):
        ark.content_generation.tasks.get(task_id=UNKNOWN_ID)

    assert raised.value.code == "AuthenticationError"


def test_a_model_that_the_key_may_not_use_is_forbidden(sdk: Any, gateway: Gateway) -> None:
    key = gateway.create_key("--model", OTHER_MODEL)

    with (
        open_ark(sdk, gateway, key) as ark,
        pytest.raises(sdk._exceptions.ArkPermissionDeniedError) as raised,
    ):
        create(ark)

    assert (raised.value.code, raised.value.param) == ("AccessDenied", "model")


@pytest.mark.parametrize("task_id", [UNKNOWN_ID, "cgt-1"])
def test_an_unknown_task_is_not_found(sdk: Any, ark: Any, task_id: str) -> None:
    with pytest.raises(sdk._exceptions.ArkNotFoundError) as raised:
        ark.content_generation.tasks.get(task_id=task_id)

    assert raised.value.code == "NotFound.Task"


def test_an_unknown_model_is_not_found(sdk: Any, ark: Any) -> None:
    with pytest.raises(sdk._exceptions.ArkNotFoundError) as raised:
        ark.content_generation.tasks.create(
            **{**published.make_body(), "model": "seedance-1-0-pro-250428"}
        )

    assert raised.value.code == "InvalidEndpointOrModel.NotFound"


def test_a_full_upstream_is_a_rate_limit_error(sdk: Any, ark: Any) -> None:
    with pytest.raises(sdk._exceptions.ArkRateLimitError) as raised:
        create(ark, "sandbox:429")

    assert raised.value.response.headers["retry-after"].isdecimal()


def test_a_refused_post_is_retried_and_makes_one_task(sdk: Any, upset_gateway: Gateway) -> None:
    upset_gateway.set_faults(
        {
            "operation": "create",
            "at": "before_create",
            "action": "error",
            "status": 429,
            "body": OVERLOADED,
            "times": 1,
        }
    )
    posts, creates = count_posts(upset_gateway), count_creates(upset_gateway)

    with open_ark(sdk, upset_gateway, max_retries=2) as ark:
        create(ark)

    assert count_posts(upset_gateway) - posts == 2
    assert count_creates(upset_gateway) == creates + 1


def test_a_post_that_an_operator_must_mend_is_not_retried(sdk: Any, upset_gateway: Gateway) -> None:
    upset_gateway.set_faults()
    posts, creates = count_posts(upset_gateway), count_creates(upset_gateway)

    with (
        open_ark(sdk, upset_gateway, max_retries=2) as ark,
        pytest.raises(sdk._exceptions.ArkInternalServerError) as raised,
    ):
        create(ark, "sandbox:overdue")

    assert (raised.value.status_code, raised.value.code) == (503, "UpstreamAccount")
    assert count_posts(upset_gateway) - posts == 1
    assert count_creates(upset_gateway) == creates


@pytest.mark.parametrize("at", ["after_create", "mid_answer"])
def test_a_lost_answer_is_not_paid_twice(sdk: Any, upset_gateway: Gateway, at: str) -> None:
    upset_gateway.set_faults({"operation": "create", "at": at, "action": "drop", "times": 1})
    posts, creates = count_posts(upset_gateway), count_creates(upset_gateway)

    with open_ark(sdk, upset_gateway, max_retries=2) as ark:
        task_id = create(ark)
        task = ark.content_generation.tasks.get(task_id=task_id)

    assert task.status == "queued"
    assert count_posts(upset_gateway) - posts == 1
    assert count_creates(upset_gateway) == creates + 1
