"""What operators do about webhooks: list, deliver again, hand out and change the secret."""

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.config import Config
from gateway.domain.webhooks import (
    NotificationKind,
    NotificationState,
    generate_secret,
)
from gateway.ports import Runtime
from gateway.runtime import DATABASE_FILE
from gateway.services import operating
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.notified import (
    SUCCEEDED,
    Client,
    OpenRuntime,
    connect,
    deliver,
    outbox,
    secret_of,
    statuses,
)
from tests.support.receiver import Receiver, answer

CALLBACK, USAGE = NotificationKind.CALLBACK, NotificationKind.USAGE


async def run_cli(
    config: Config, capsys: pytest.CaptureFixture[str], line: str
) -> tuple[int, str, str]:
    """Run a command, which has an event loop of its own, beside this one."""
    capsys.readouterr()
    arguments = [*line.split(), "--data-dir", str(config.data_dir)]
    exit_code = await asyncio.to_thread(main, arguments)
    captured = capsys.readouterr()
    return exit_code, captured.out, captured.err


async def test_an_operator_lists_and_redelivers_beside_a_running_server(
    client: Client,
    receiver: Receiver,
    runtime: Runtime,
    config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    receiver.answers = [answer(410), answer(204)]
    task_id = await client.submit(receiver.url)
    await client.show(task_id, SUCCEEDED)
    await deliver(runtime)
    await client.submit()

    exit_code, out, _ = await run_cli(config, capsys, "webhooks list --format json")
    newest, oldest = json.loads(out)
    assert exit_code == 0
    assert (newest["state"], newest["last_status"], newest["attempts"]) == ("delivered", 204, 1)
    assert (oldest["state"], oldest["last_error"]) == ("dead", "gone")
    assert oldest["task_id"] == task_id
    assert oldest["url"] == f"http://127.0.0.1:{receiver.port}/hooks"
    assert "canary-query" not in out

    _, out, _ = await run_cli(config, capsys, "webhooks list --state dead --format json")
    assert [row["id"] for row in json.loads(out)] == [oldest["id"]]
    _, out, _ = await run_cli(config, capsys, "webhooks list --task cgt-none --format json")
    assert json.loads(out) == []
    _, out, _ = await run_cli(config, capsys, f"webhooks list --task {task_id} --limit 1")
    assert [line.split()[0] for line in out.splitlines()] == ["ID", newest["id"]]

    _, out, _ = await run_cli(config, capsys, f"webhooks redeliver {oldest['id']} --format json")
    assert json.loads(out)["state"] == "pending"
    assert await deliver(runtime) == 1
    assert receiver.deliveries[-1].header("webhook-id") == oldest["id"]
    exit_code, out, err = await run_cli(config, capsys, "webhooks redeliver msg_none")
    assert (exit_code, out) == (1, "")
    assert "no such notification" in err
    _, out, _ = await run_cli(config, capsys, "webhooks redeliver --all-dead --format json")
    assert json.loads(out) == {"redelivered": 0}


async def test_the_secret_is_shown_to_who_asks_for_it_alone(
    runtime: Runtime, config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = secret_of(runtime)

    _, told, _ = await run_cli(config, capsys, "webhooks secret")
    _, shown, _ = await run_cli(config, capsys, "webhooks secret --show")

    assert "pepper" in told
    assert secret not in told
    assert shown == f"{secret}\n"


async def test_there_is_no_secret_before_the_first_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = Config(data_dir=tmp_path / "nowhere")

    exit_code, out, err = await run_cli(nowhere, capsys, "webhooks secret --show")

    assert (exit_code, out) == (1, "")
    assert "first start" in err


async def test_configured_secrets_sign_the_newest_first(
    open_again: OpenRuntime, upstream: FakeUpstream, clock: FakeClock, receiver: Receiver
) -> None:
    old, new = (generate_secret(random.Random(seed).randbytes) for seed in (1, 2))
    async with open_again(secrets=(new, old)) as runtime:
        client = await connect(runtime, upstream, clock)
        await client.submit(receiver.url)
        await deliver(runtime)

    assert receiver.messages(old) == receiver.messages(new) != []


async def test_every_start_signs_alike(open_again: OpenRuntime) -> None:
    async with open_again() as runtime:
        first = secret_of(runtime)
    async with open_again() as runtime:
        assert secret_of(runtime) == first


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("command", ["webhooks list", "config check", "config show", "doctor"])
@pytest.mark.parametrize(
    "url", ["http://user:PWSECRET@sink.example/", "https://", "http://a:b/", "http://[::1"]
)
async def test_a_sink_that_nothing_can_be_delivered_to_is_a_mistake_of_configuration(
    config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    command: str,
) -> None:
    monkeypatch.setenv("GATEWAY_WEBHOOKS__USAGE_URL", url)

    exit_code, out, err = await run_cli(config, capsys, command)

    assert exit_code == 2
    assert "webhooks.usage_url" in out + err
    assert "must be an http or https URL with a host, and without user info" in out + err
    assert "PWSECRET" not in out + err


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("secret", ["?token=PWSECRET", "#PWSECRET", "/#?PWSECRET"])
async def test_what_may_be_a_token_of_the_sink_is_not_shown(
    config: Config,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    secret: str,
) -> None:
    monkeypatch.setenv("GATEWAY_WEBHOOKS__USAGE_URL", f"http://sink.example/usage{secret}")

    exit_code, out, err = await run_cli(config, capsys, "config show")

    assert exit_code == 0
    assert "http://sink.example/usage" in out
    assert "PWSECRET" not in out + err


async def test_nothing_of_a_callback_stays_on_disk_once_its_request_is_erased(
    client: Client,
    receiver: Receiver,
    runtime: Runtime,
    config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task_id = await client.submit(receiver.url)
    await deliver(runtime)
    await operating.erase_requests(runtime, "test", task_id=task_id)
    await client.show(task_id, SUCCEEDED)  # and is still told where it was asked to be
    pending = (await outbox(runtime, state=NotificationState.PENDING))[0]
    assert pending.url == receiver.url
    await deliver(runtime)

    assert statuses(receiver) == ["queued", "succeeded"]
    assert "canary-query" not in await stored_text(config)
    _, out, _ = await run_cli(config, capsys, f"webhooks list --task {task_id} --format json")
    assert {row["url"] for row in json.loads(out)} == {"erased"}
    exit_code, _, err = await run_cli(config, capsys, f"webhooks redeliver {pending.id}")
    assert (exit_code, "was erased" in err) == (1, True)
    _, out, _ = await run_cli(config, capsys, f"tasks story {task_id} --format json")
    assert {row["receiver"] for row in json.loads(out)["notifications"]} == {"erased"}


async def test_with_no_retention_a_callback_is_erased_as_soon_as_it_has_ended(
    open_again: OpenRuntime,
    upstream: FakeUpstream,
    clock: FakeClock,
    receiver: Receiver,
    config: Config,
) -> None:
    async with open_again() as opened:
        retention = opened.config.retention.model_copy(update={"request_days": 0})
        runtime = replace(opened, config=opened.config.model_copy(update={"retention": retention}))
        client = await connect(runtime, upstream, clock)
        receiver.answers = [answer(204), answer(410)]
        await client.finish(receiver.url)
        await deliver(runtime)

        assert statuses(receiver) == ["queued", "succeeded"]
        assert "canary-query" not in await stored_text(config)
        assert "a fox" not in await stored_text(config)


async def stored_text(config: Config) -> str:
    """Return all that the tables hold of requests and callbacks."""
    with closing(sqlite3.connect(config.data_dir / DATABASE_FILE)) as database:
        rows = database.execute(
            "SELECT callback_url FROM attempts UNION ALL SELECT url FROM notifications "
            "UNION ALL SELECT body FROM notifications UNION ALL SELECT body FROM task_requests"
        )
        return str(rows.fetchall())
