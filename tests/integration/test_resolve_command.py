"""`tasks resolve` where the upstream's credential is not at hand, as on another machine."""

import asyncio

import pytest

from gateway.config import Config
from gateway.domain.keys import Principal
from gateway.ports import Runtime
from tests.support.commands import CommandLine
from tests.support.fake_upstream import FakeUpstream
from tests.support.lost import lose


@pytest.fixture
def run(
    config: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """Run commands on the data of the runtime, with its upstream and without its credential."""
    command = CommandLine(config.data_dir.parent, capsys, monkeypatch)
    command.write(
        "gateway.yaml",
        "data_dir: data\n"
        "upstreams:\n"
        "  - name: fake\n"
        "    base_url: http://127.0.0.1:9/api/v3\n"
        "    credentials: [{env: FAKE_CREDENTIAL}]\n",
    )
    monkeypatch.setenv("GATEWAY_CONFIG", "gateway.yaml")
    monkeypatch.delenv("FAKE_CREDENTIAL", raising=False)
    return command


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [("--absent", 2), ("--found up-1", 2), ("--absent --force", 0), ("--charge", 0)],
)
async def test_without_the_credential_only_what_needs_no_look_is_decided(
    run: CommandLine,
    runtime: Runtime,
    principal: Principal,
    upstream: FakeUpstream,
    options: str,
    exit_code: int,
) -> None:
    task_id = await lose(runtime, principal, upstream, is_made=False)

    done = await asyncio.to_thread(run, f"tasks resolve {task_id} {options} --reason asked")

    assert done.exit_code == exit_code, done.err
    assert "the environment variable FAKE_CREDENTIAL is not set" in done.err
