"""Magic prompts, and that every documented error body can be had."""

from time import monotonic

import pytest

from gateway.sandbox.errors import ERRORS
from gateway.sandbox.settings import SandboxLimits
from tests.sandbox.conftest import Opener
from tests.sandbox.support import ARK, IMAGE, PRO, Upstream, body, text

CODES_WITH_ANY_END = ["InvalidParameter.Duration", "MissingParameter.Content", "NotFound.File"]


async def test_every_error_code_can_be_forced(upstream: Upstream) -> None:
    wrong = {}
    for code in [*ERRORS, *CODES_WITH_ANY_END]:
        error = await upstream.refuse(body(f"a boat sandbox:error={code}"))
        status, kind, _ = ERRORS.get(code) or ERRORS[code.partition(".")[0]]
        if (error["code"], error["status"], error["type"]) != (code, status, kind):
            wrong[code] = error
        assert "{" not in error["message"]
        assert "Request id: 02" in error["message"]

    assert wrong == {}
    assert (await upstream.truth())["creates"] == 0


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("reject-400", 400, "InvalidParameter"),
        ("input-moderation", 400, "InputTextSensitiveContentDetected"),
        ("429", 429, "ServerOverloaded"),
        ("500", 500, "InternalServiceError"),
        ("overdue", 403, "AccountOverdueError"),
        ("not-open", 404, "ModelNotOpen"),
    ],
)
async def test_short_names_refuse_at_once(
    upstream: Upstream, token: str, status: int, code: str
) -> None:
    error = await upstream.refuse(body(f"a boat sandbox:{token}."))

    assert (error["status"], error["code"]) == (status, code)


async def test_names_account_and_model_in_messages(upstream: Upstream) -> None:
    error = await upstream.refuse(body("sandbox:not-open"))

    assert error["message"].startswith("Your account 21")
    assert f"has not activated the model {PRO}" in error["message"]


async def test_any_code_can_be_the_reason_of_a_failure(upstream: Upstream) -> None:
    shown = await upstream.finish("sandbox:fail=InvalidParameter.TaskTypeMismatch")

    assert shown["error"]["code"] == "InvalidParameter.TaskTypeMismatch"


async def test_a_slow_refusal_says_that_the_fetch_timed_out(upstream: Upstream) -> None:
    started_s = monotonic()
    error = await upstream.refuse(body(content=[text("sandbox:slow-400=0.3"), IMAGE]))

    assert monotonic() - started_s >= 0.3
    assert (error["status"], error["param"]) == (400, "content[1].image_url")
    assert "timeout while fetching resource" in error["message"]
    assert (await upstream.truth())["creates"] == 0


async def test_a_slow_create_is_accepted_in_real_time(open_upstream: Opener) -> None:
    async with open_upstream(time_scale=1000.0) as upstream:
        started_s = monotonic()
        await upstream.create("sandbox:slow=0.3")

        assert monotonic() - started_s >= 0.3


async def test_media_takes_its_time_to_fetch(open_upstream: Opener) -> None:
    async with open_upstream(media_fetch_s=0.3) as upstream:
        started_s = monotonic()
        await upstream.create()
        plain_s = monotonic() - started_s
        started_s = monotonic()
        await upstream.create(content=[text("a"), IMAGE])
        fetched_s = monotonic() - started_s

    assert plain_s < 0.3 <= fetched_s


async def test_forces_times_and_usage(upstream: Upstream) -> None:
    held = await upstream.create("sandbox:queued=5000 sandbox:run=10")
    silent = await upstream.create("sandbox:no-usage sandbox:no-video")
    priced = await upstream.create("sandbox:tokens=77")
    await upstream.advance(4000)

    assert await upstream.status(held) == "queued"
    done = await upstream.get(silent)
    assert "usage" not in done
    assert done["content"] == {}
    assert (await upstream.get(priced))["usage"]["completion_tokens"] == 77
    await upstream.advance(1011)
    assert await upstream.status(held) == "succeeded"


async def test_expires_after_the_seconds_it_was_told(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:expire=600")

    await upstream.advance(590)
    assert await upstream.status(task_id) == "running"
    await upstream.advance(20)
    assert await upstream.status(task_id) == "expired"


async def test_can_vanish_or_come_without_an_id(upstream: Upstream) -> None:
    vanished = await upstream.create("sandbox:vanish")
    nameless = await upstream.post(body("sandbox:no-id"))

    assert (await upstream.http.get(f"{ARK}/{vanished}")).status_code == 404
    assert (nameless.status_code, nameless.json()) == (200, {})
    assert (await upstream.truth())["creates"] == 2
    assert (await upstream.list())["total"] == 1


async def test_can_show_a_status_that_nobody_knows(upstream: Upstream) -> None:
    task_id = await upstream.create("sandbox:status=pausing sandbox:run=1000")
    await upstream.advance(100)
    assert await upstream.status(task_id) == "pausing"
    await upstream.advance(1000)
    assert await upstream.status(task_id) == "succeeded"


async def test_the_plane_before_the_service_has_an_envelope_of_its_own(upstream: Upstream) -> None:
    answer = await upstream.post(body("sandbox:plane-error"))

    metadata = answer.json()["ResponseMetadata"]
    assert answer.status_code == 403
    assert metadata["RequestId"].startswith("02")
    assert metadata["Error"]["Code"] == "AccessDenied"


@pytest.mark.parametrize(
    "words",
    ["sandbox:flail", "sandbox:slow", "sandbox:slow=x", "sandbox:error", "sandbox:error=Nope"],
)
async def test_a_slip_of_the_pen_is_told(upstream: Upstream, words: str) -> None:
    error = await upstream.refuse(body(words))

    assert (error["status"], error["param"]) == (400, "content")
    assert "sandbox:" in error["message"]


@pytest.mark.parametrize("words", ["a sandbox: children play", "mysandbox:fail", "Sandbox:fail"])
async def test_the_prompt_is_otherwise_free(upstream: Upstream, words: str) -> None:
    shown = await upstream.finish(words)

    assert shown["status"] == "succeeded"


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Basic abc", "sk-test"])
async def test_refuses_a_missing_or_malformed_key(
    upstream: Upstream, authorization: str | None
) -> None:
    del upstream.http.headers["authorization"]
    headers = {} if authorization is None else {"authorization": authorization}

    answer = await upstream.http.post(ARK, json=body(), headers=headers)

    assert answer.status_code == 401
    assert answer.headers["x-error-code"] == "AuthN_MissOrInvalidAuthorizationHeader"
    assert answer.json()["error"]["code"] == "AuthenticationError"
    assert answer.json()["error"]["type"] == "Unauthorized"


async def test_named_keys_are_the_only_ones_and_accounts_are_apart(open_upstream: Opener) -> None:
    keys = {"sk-a": "red", "sk-b": "blue", "sk-c": "red"}
    async with open_upstream(keys=keys, key="sk-a") as upstream:
        task_id = await upstream.create()

        seen = {}
        for key in ("sk-a", "sk-b", "sk-c", "sk-d"):
            answer = await upstream.http.get(
                f"{ARK}/{task_id}", headers={"authorization": f"Bearer {key}"}
            )
            seen[key] = answer.status_code
        (task,) = (await upstream.truth())["tasks"]

    assert seen == {"sk-a": 200, "sk-b": 404, "sk-c": 200, "sk-d": 401}
    assert task["account"] == "red"


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (SandboxLimits(rpm=3), "ModelAccountRpmRateLimitExceeded"),
        (SandboxLimits(concurrency=1, queued_max=2), "QuotaExceeded"),
    ],
)
async def test_limits_creates(open_upstream: Opener, limits: SandboxLimits, code: str) -> None:
    async with open_upstream(limits=limits) as upstream:
        first = await upstream.create("sandbox:run=1000")
        if code == "QuotaExceeded":
            await upstream.advance(20)
        for _ in range(2):
            await upstream.create("sandbox:run=1000")
        error = await upstream.refuse(body())

        assert (error["status"], error["type"], error["code"]) == (429, "TooManyRequests", code)
        assert (await upstream.truth())["creates"] == 3
        assert await upstream.status(first) in {"queued", "running"}


async def test_4k_has_a_rate_of_its_own(open_upstream: Opener) -> None:
    async with open_upstream(limits=SandboxLimits(rpm_4k=1)) as upstream:
        fields = {"model": "doubao-seedance-2-0-260128", "resolution": "4k"}
        await upstream.create(**fields)
        error = await upstream.refuse(body(**fields))
        await upstream.create(model=fields["model"])

    assert error["code"] == "ModelAccountRpmRateLimitExceeded"


@pytest.mark.parametrize(
    ("method", "limits"),
    [
        ("GET", SandboxLimits(get_per_s=2)),
        ("DELETE", SandboxLimits(delete_per_s=2)),
        ("LIST", SandboxLimits(list_per_s=2)),
    ],
)
async def test_limits_reads_per_account_in_real_time(
    open_upstream: Opener, method: str, limits: SandboxLimits
) -> None:
    keys = {"sk-a": "red", "sk-b": "blue"}
    async with open_upstream(limits=limits, keys=keys, key="sk-a", time_scale=1000.0) as upstream:
        verb, path = ("GET", ARK) if method == "LIST" else (method, f"{ARK}/cgt-x")
        answers = [await upstream.http.request(verb, path) for _ in range(3)]
        other = await upstream.http.request(verb, path, headers={"authorization": "Bearer sk-b"})

    expected = 200 if method == "LIST" else 404
    assert [answer.status_code for answer in answers] == [expected, expected, 429]
    assert answers[2].json()["error"]["code"] == "AccountRateLimitExceeded"
    assert "retry-after" not in answers[2].headers
    assert other.status_code == expected
