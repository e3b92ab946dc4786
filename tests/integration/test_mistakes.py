"""What operators get wrong is told in one line, with exit code 2, and leaves nothing behind."""

import json
import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.cli.main import main

RunCli = Callable[[str], tuple[int, str, str]]
UPSTREAM = "upstreams: [{{name: a, base_url: 'https://a.example', credentials: [{}]{}}}]"


@pytest.fixture
def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> RunCli:
    """Run a command line in an empty folder; give exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("ARK_API_KEY", "ARK_BASE_URL", "DATABASE_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)

    def run(line: str) -> tuple[int, str, str]:
        exit_code = main(shlex.split(line))
        return exit_code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    "line",
    [
        "keys list",
        "keys show abc",
        "keys revoke abc",
        "keys rotate abc --grace 1h",
        "projects list",
        "tasks list",
        "tasks show cgt-x",
        "tasks wait cgt-x",
        "tasks cancel cgt-x",
        "tasks erase --before 30d",
    ],
)
def test_a_command_that_only_uses_data_makes_none(run: RunCli, tmp_path: Path, line: str) -> None:
    folder = tmp_path / "nowhere" / "x"

    exit_code, out, err = run(f"{line} --data-dir {folder}")

    assert (exit_code, out) == (2, "")
    assert err == f"Error: There is no gateway data in {folder}.\n"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_makes_nothing_and_says_so(run: RunCli, tmp_path: Path) -> None:
    exit_code, out, _ = run("doctor --format json")

    findings = {each["check"]: each for each in json.loads(out)["findings"]}
    assert exit_code == 1
    assert findings["upstreams"]["level"] == "fail"
    assert findings["database"]["level"] == "warn"
    assert "no gateway data in .data yet" in findings["database"]["message"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "''",
        "http://user:password@127.0.0.1:1",
        "'http://127.0.0.1:1?x=1'",
    ],
)
def test_a_sandbox_url_of_no_use_is_refused(run: RunCli, tmp_path: Path, url: str) -> None:
    exit_code, out, err = run(f"serve --sandbox-url {url}")

    assert (exit_code, out) == (2, "")
    assert err.startswith("Error: --sandbox-url: must be an http or https URL")
    assert "password" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("credential", "more", "value", "check"),
    [
        ("{env: A}", "", b"canary\n4Zq8", "upstreams.a.credentials.default"),
        ("{env: A}", "", "canary-\u00e9".encode(), "upstreams.a.credentials.default"),
        ("{file: a}", "", b"canary\n4Zq8", "upstreams.a.credentials.default"),
        ("{file: a}", "", b"canary\xff", "upstreams.a.credentials.default"),
        ("{env: A}", ", ca_file: a", b"canary", "upstreams.a.ca_file"),
        ("{env: A}", ", proxy: 'canary'", b"canary", "upstreams.a.proxy"),
        ("{env: A}", ", proxy: 'socks5://canary:1'", b"canary", "upstreams.a.proxy"),
    ],
)
def test_what_a_start_would_refuse_is_found_before_it(
    run: RunCli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    credential: str,
    more: str,
    value: bytes,
    check: str,
) -> None:
    (tmp_path / "a").write_bytes(value)
    monkeypatch.setenv("A", value.decode(errors="replace"))
    (tmp_path / "gateway.yaml").write_text(UPSTREAM.format(credential, more))

    exit_code, out, _ = run("config check --config gateway.yaml --format json")
    started = run("serve --config gateway.yaml --port 0 --data-dir data")

    findings = json.loads(out)["findings"]
    assert [each["check"] for each in findings if each["level"] == "fail"] == [check]
    assert exit_code == started[0] == 2
    assert "canary" not in out + started[2]


@pytest.mark.parametrize(
    ("webhooks", "check", "problem"),
    [
        (
            "allow_private: [10.0.0.0/8, foo]",
            "webhooks.allow_private",
            "foo is no network; allowed are an address with its length, such as 10.1.0.0/16",
        ),
        (
            "allow_private: [10.0.0.1/8]",
            "webhooks.allow_private",
            "10.0.0.1/8 has bits set beyond its length; write 10.0.0.0/8",
        ),
        ("ca_file: gone.pem", "webhooks.ca_file", "No such file"),
        ("ca_file: gateway.yaml", "webhooks.ca_file", "NO_CERTIFICATE"),
    ],
)
def test_what_a_start_would_refuse_of_webhooks_is_found_before_it(
    run: RunCli, tmp_path: Path, webhooks: str, check: str, problem: str
) -> None:
    (tmp_path / "gateway.yaml").write_text(f"webhooks: {{{webhooks}}}\n")

    exit_code, out, _ = run("config check --config gateway.yaml --format json")
    started = run("serve --sandbox --config gateway.yaml --port 0 --data-dir data")

    findings = [each for each in json.loads(out)["findings"] if each["level"] == "fail"]
    assert [each["check"] for each in findings] == [check]
    assert problem in findings[0]["message"]
    assert exit_code == started[0] == 2
    assert f"{check}: " in started[2]
    assert problem in started[2]


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        (
            "GATEWAY_SERVER__PORT",
            "Set another one by --port or server.port (GATEWAY_SERVER__PORT)",
        ),
        (
            "GATEWAY_SERVER__METRICS_PORT",
            "Set another one by server.metrics_port (GATEWAY_SERVER__METRICS_PORT)",
        ),
    ],
)
def test_a_port_that_is_taken_is_told_with_what_sets_it(
    run: RunCli, monkeypatch: pytest.MonkeyPatch, variable: str, hint: str
) -> None:
    monkeypatch.setenv("GATEWAY_SERVER__PORT", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(variable, str(port))

        exit_code, out, err = run("serve --sandbox")

    assert (exit_code, out) == (2, "")
    assert f"Can't listen on 127.0.0.1 port {port}: Address already in use. {hint}" in err
    assert "`--port 0` takes free ones for all." in err


@pytest.mark.parametrize("name", ["HOST", "METRICS_HOST"])
def test_an_address_that_is_not_of_this_machine_is_told_with_what_sets_it(
    run: RunCli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"GATEWAY_SERVER__{name}", "192.0.2.1")

    exit_code, out, err = run("serve --sandbox --port 0")

    assert (exit_code, out) == (2, "")
    assert "Can't listen on 192.0.2.1 port 0: Cannot assign requested address. " in err
    assert f"server.{name.lower()} (GATEWAY_SERVER__{name}) must be one of this machine" in err


def test_the_sandbox_alone_says_how_to_take_another_port(run: RunCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        exit_code, out, err = run(f"sandbox --port {port}")

    assert (exit_code, out) == (2, "")
    assert f"Can't listen on 127.0.0.1 port {port}: Address already in use." in err
    assert "--port" in err


def test_a_lost_pepper_is_never_replaced_while_keys_work(run: RunCli, tmp_path: Path) -> None:
    key_id = json.loads(run("keys create --format json")[1])["id"]
    pepper = tmp_path / ".data" / "pepper"
    pepper.unlink()

    for line in ("keys create", f"keys rotate {key_id} --grace 1h"):
        exit_code, out, err = run(line)
        assert (exit_code, out) == (2, "")
        assert ".data/pepper is gone" in err
    findings = json.loads(run("doctor --format json")[1])["findings"]
    assert "pepper" in [each["check"] for each in findings if each["level"] == "fail"]
    assert not pepper.exists()

    assert run(f"keys revoke {key_id}")[0] == 0
    assert run("keys create")[0] == 0
    assert pepper.exists()


def test_another_pepper_is_refused_while_keys_work(run: RunCli, tmp_path: Path) -> None:
    run("keys create")
    pepper = tmp_path / ".data" / "pepper"
    right = pepper.read_bytes()
    pepper.write_bytes(right[::-1])

    exit_code, _, err = run("keys create")

    assert exit_code == 2
    assert ".data/pepper is not the pepper" in err
    assert run("keys list")[0] == 0
    pepper.write_bytes(right)
    assert run("keys create")[0] == 0


def test_a_pepper_that_is_too_short_is_a_finding(
    run: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("keys create")
    (tmp_path / ".data" / "pepper").write_text("short")

    for line in ("doctor", "doctor --format json"):
        exit_code, out, err = run(line)
        assert (exit_code, err) == (1, "")
        assert "pepper is too short" in out

    monkeypatch.setenv("GATEWAY_AUTH__PEPPER", "short")
    for line in ("doctor", "doctor --format json"):
        exit_code, out, err = run(line)
        assert (exit_code, err) == (2, "")
        assert "is too short: 16 bytes at least" in out


def test_a_whole_key_stands_for_its_id(run: RunCli) -> None:
    made = json.loads(run("keys create --format json")[1])

    exit_code, out, err = run(f"keys show {made['key']}")

    assert exit_code == 0
    assert made["id"] in out
    assert made["key"][20:] not in out + err
    assert run(f"keys revoke {made['key']}")[0] == 0


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x00b", "\u202egnp"])
def test_a_name_that_can_not_be_printed_is_refused(run: RunCli, name: str) -> None:
    exit_code, out, err = run(shlex.join(["keys", "create", "--name", name]))

    assert (exit_code, out) == (1, "")
    assert err == "Error: The name has characters that can't be printed.\n"


@pytest.mark.parametrize("moment", ["0001-01-01", "9999-12-31", "9999-12-31T23:59:59-23:59"])
def test_requests_of_any_age_may_be_erased(run: RunCli, moment: str) -> None:
    run("migrate")

    exit_code, out, err = run(f"tasks erase --before {moment}")

    assert (exit_code, out, err) == (0, "0 requests erased\n", "")
