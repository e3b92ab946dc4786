"""The commands, in this process, on real databases."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.domain import keys as key_rules

KEY = re.compile(r"sg_(live|test)_[0-9A-Za-z]{61}\Z")
STAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        assert self.exit_code == 0, self.err
        assert self.out.count("\n") == 1
        value: dict[str, object] = json.loads(self.out)
        return value

    @property
    def rows(self) -> list[dict[str, object]]:
        assert self.exit_code == 0, self.err
        rows: list[dict[str, object]] = json.loads(self.out)
        return rows


Run = Callable[[str], Outcome]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line on a data folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("ARK_API_KEY", "ARK_BASE_URL", "DATABASE_URL", "PORT"):
        monkeypatch.delenv(name, raising=False)

    def run(line: str) -> Outcome:
        exit_code = main(shlex.split(line))
        captured = capsys.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run


def test_the_version_is_told(run: Run) -> None:
    outcome = run("--version")

    assert (outcome.exit_code, outcome.err) == (0, "")
    assert re.fullmatch(r"seedance-gateway \d+\.\d+\.\d+\n", outcome.out)


@pytest.mark.parametrize(
    "line",
    [
        "serve",
        "sandbox",
        "projects create",
        "projects list",
        "keys create",
        "keys list",
        "keys show",
        "keys revoke",
        "keys rotate",
        "keys generate",
        "limits set",
        "limits show",
        "prices list",
        "prices quote",
        "backup",
        "restore",
        "tasks list",
        "tasks show",
        "tasks story",
        "tasks wait",
        "tasks cancel",
        "tasks resolve",
        "tasks erase",
        "usage report",
        "webhooks list",
        "webhooks redeliver",
        "webhooks secret",
        "upstreams list",
        "upstreams orphans",
        "upstreams probe",
        "migrate",
        "config check",
        "config show",
        "config schema",
        "doctor",
        "openapi",
    ],
)
def test_every_command_takes_the_common_options(run: Run, line: str) -> None:
    outcome = run(f"{line} --help")

    assert outcome.exit_code == 0
    for option in ("--data-dir", "--config", "--actor", "--format"):
        assert option in outcome.out


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "keys create --nonsense",
        "keys list --format xml",
        "keys create --ttl soon",
        "keys rotate abc",
        "tasks list --state lost",
        "tasks erase",
        "tasks erase --before yesterday",
        "webhooks list --state lost",
        "webhooks list --format csv",
        "webhooks redeliver",
        "webhooks redeliver msg_1 --all-dead",
        "webhooks redeliver msg_1 --kind usage",
        "webhooks redeliver --all-dead --kind mail",
        "serve --sandbox --sandbox-url http://127.0.0.1:1",
        "serve --port 70000",
        "sandbox --profile nonsense",
        "sandbox --time-scale 0",
    ],
)
def test_wrong_usage_ends_with_2(run: Run, line: str) -> None:
    outcome = run(line)

    assert outcome.exit_code == 2
    assert outcome.out == ""
    assert outcome.err


def test_a_project_is_made_and_listed(run: Run) -> None:
    made = run("projects create films --format json").json

    assert made["name"] == "films"
    assert STAMP.match(str(made["created_at"]))
    assert run("projects list --format json").rows == [made]
    assert run("projects list").out.splitlines()[0].split() == ["ID", "NAME", "CREATED_AT"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("projects create Films", "Error: The project name 'Films' is not valid"),
        ("keys create --project films", "Error: There is no project 'films'."),
        ("keys create --model sora", "Error: The model 'sora' is not configured"),
        ("keys list --project films", "Error: There is no project 'films'."),
        ("keys show abc", "Error: There is no key 'abc'."),
        ("keys revoke abc", "Error: There is no key 'abc'."),
        ("keys rotate abc --grace 1h", "Error: There is no key 'abc'."),
        ("tasks show cgt-x", "Error: The specified task cgt-x is not found."),
        ("tasks wait cgt-x", "Error: The specified task cgt-x is not found."),
        ("tasks cancel cgt-x", "Error: The specified task cgt-x is not found."),
        ("tasks erase --id cgt-x", "Error: The specified task cgt-x is not found."),
    ],
)
def test_a_refusal_is_one_line_and_ends_with_1(run: Run, line: str, message: str) -> None:
    run("migrate")

    outcome = run(line)

    assert (outcome.exit_code, outcome.out) == (1, "")
    assert outcome.err.startswith(message)
    assert outcome.err.count("\n") == 1


def test_a_key_is_shown_once(run: Run) -> None:
    run("projects create films")

    made = run("keys create --project films --name studio --ttl 30d --format json").json

    assert list(made) == ["id", "key", "project", "expires_at"]
    assert KEY.match(str(made["key"]))
    assert made["id"] == key_rules.parse(str(made["key"]))
    assert made["project"] == "films"
    assert STAMP.match(str(made["expires_at"]))
    later = run("keys list --format json").out + run(f"keys show {made['id']}").out
    assert str(made["key"])[20:63] not in later
    assert "studio" in later


def test_the_default_project_needs_no_making(run: Run) -> None:
    made = run("keys create --format json").json

    assert (made["project"], made["expires_at"]) == ("default", None)
    assert str(made["key"]).startswith("sg_live_")
    assert str(run("keys create --test --format json").json["key"]).startswith("sg_test_")


def test_a_key_may_be_bound_to_models(run: Run) -> None:
    model = "doubao-seedance-1-0-pro-250528"
    made = run(f"keys create --model {model} --model seedance-1-0-pro-250528 --format json").json

    shown = run(f"keys show {made['id']} --format json").json

    assert shown["models"] == [model, "seedance-1-0-pro-250528"]


def test_keys_are_listed_by_project(run: Run) -> None:
    run("projects create films")
    first = run("keys create --project films --format json").json
    run("keys create")

    rows = run("keys list --project films --format json").rows

    assert [row["id"] for row in rows] == [first["id"]]
    assert len(run("keys list --format json").rows) == 2


def test_a_revoked_key_stays_revoked(run: Run) -> None:
    made = run("keys create --format json").json

    revoked = run(f"keys revoke {made['id']} --format json").json

    assert revoked["status"] == "revoked"
    assert STAMP.match(str(revoked["revoked_at"]))
    assert run(f"keys revoke {made['id']} --format json").json == revoked
    assert run(f"keys rotate {made['id']} --grace 1h").exit_code == 1


def test_a_rotated_key_ends_after_the_grace(run: Run) -> None:
    made = run("keys create --project default --name studio --format json").json

    successor = run(f"keys rotate {made['id']} --grace 24h --format json").json

    assert successor["replaces"] == made["id"]
    assert KEY.match(str(successor["key"]))
    old = run(f"keys show {made['id']} --format json").json
    assert (old["status"], bool(STAMP.match(str(old["expires_at"])))) == ("valid", True)
    new = run(f"keys show {successor['id']} --format json").json
    assert (new["name"], new["expires_at"]) == ("studio", None)


def test_a_generated_key_is_well_formed_and_stored_nowhere(run: Run, tmp_path: Path) -> None:
    key = run("keys generate").out.strip()

    assert KEY.match(key)
    assert key_rules.parse(key)
    assert run("keys generate --format json").json["key"] != key
    assert list(tmp_path.iterdir()) == []


def test_tables_keep_talk_off_stdout(run: Run) -> None:
    outcome = run("keys create")

    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        "id",
        "key",
        "project",
        "expires_at",
    ]
    assert outcome.err == "The key is shown this once: only its digest is stored.\n"


def test_a_log_level_that_was_asked_for_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TELEMETRY__LOG_LEVEL", "info")

    outcome = run("keys create --format json")

    assert json.loads(outcome.err.splitlines()[-1])["event"] == "key.created"
    assert outcome.json["project"] == "default"


def test_commands_share_the_data_folder_that_is_named(run: Run, tmp_path: Path) -> None:
    run("projects create films --data-dir elsewhere")

    assert (tmp_path / "elsewhere" / "gateway.db").exists()
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / ".data").exists()
    (tmp_path / "gateway.yaml").write_text("data_dir: elsewhere\n")
    assert len(run("projects list --config gateway.yaml --format json").rows) == 1


def test_migrating_sqlite_is_harmless(run: Run) -> None:
    assert run("migrate --format json").json["from"] is None
    run("projects create films")

    again = run("migrate --format json").json

    assert again["from"] == again["to"]
    assert run("migrate").out == f"{again['to']} -> {again['to']}\n"
    assert len(run("projects list --format json").rows) == 1


def test_no_tasks_are_an_empty_list(run: Run) -> None:
    run("migrate")

    assert run("tasks list --format json").rows == []
    assert run("tasks list --project default --state queued").exit_code == 1
    assert run("tasks erase --before 30d --format json").json == {"erased": 0}


def test_openapi_is_printed(run: Run) -> None:
    document = run("openapi").json

    assert document["openapi"] == "3.1.0"
    assert "/seedance/generations" in str(document["paths"])


def test_the_configuration_is_shown_without_secrets(run: Run, tmp_path: Path) -> None:
    canary = "canary-4Zq8-of-this-test"
    key = run("keys generate").out.strip()
    (tmp_path / "gateway.yaml").write_text(
        f"bootstrap_key: {key}\n"
        f"auth: {{pepper: {canary}}}\n"
        f"storage: {{url: 'postgresql://u:{canary}@db/x'}}\n"
        "upstreams:\n"
        "  - name: ark\n"
        "    base_url: https://ark.example\n"
        f"    proxy: http://user:{canary}@proxy.example:3128\n"
        "    credentials: [{env: ARK_API_KEY}]\n"
    )

    table = run("config show --config gateway.yaml")
    shown = run("config show --config gateway.yaml --format json")

    for secret in (canary, key, key[20:63]):
        assert secret not in table.out + table.err + shown.out + shown.err
    assert '"proxy": "**********"' in shown.out
    assert '"env": "ARK_API_KEY"' in shown.out
    assert "port: 8080" in table.out


def test_the_schema_refuses_what_loading_refuses(run: Run) -> None:
    schema = run("config schema").json

    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"server", "upstreams", "storage"}  # type: ignore[call-overload]


def test_a_good_configuration_passes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "credential"
    secret.write_text("canary")
    secret.chmod(0o600)
    monkeypatch.setenv("SECOND", "canary")
    (tmp_path / "gateway.yaml").write_text(
        "finance: {timezone: UTC}\n"
        "upstreams:\n"
        "  - name: ark\n"
        "    base_url: https://ark.example\n"
        "    price_book: volcengine-cny\n"
        f"    credentials: [{{file: {secret}}}, {{name: second, env: SECOND}}]\n"
        "    models: {house: doubao-seedance-1-0-pro-250528}\n"
    )

    checked = run("config check --config gateway.yaml --format json").json

    assert checked["ok"] is True
    findings: list[dict[str, str]] = checked["findings"]  # type: ignore[assignment]
    assert {finding["level"] for finding in findings} == {"ok"}
    assert not (tmp_path / ".data").exists()


@pytest.mark.parametrize(
    ("text", "level", "check", "message"),
    [
        ("{}", "warn", "finance.timezone", "is not set"),
        ("{}", "warn", "upstreams", "none is configured"),
        (
            "storage: {url: 'postgresql://db/x'}",
            "fail",
            "auth.pepper",
            "is required with PostgreSQL",
        ),
        ("bootstrap_key: sg_live_x", "fail", "bootstrap_key", "is not a key"),
        ("models: {files: [gone.yaml]}", "fail", "models", "gone.yaml"),
        ("models: {endpoints: {ep-1: no-such-family}}", "fail", "models", "no-such-family"),
        (
            "upstreams: [{name: a, base_url: 'http://a.example', credentials: [{env: GONE}]}]",
            "fail",
            "upstreams.a.credentials.default",
            "the environment variable GONE is not set",
        ),
        (
            "upstreams: [{name: a, base_url: 'http://a.example', credentials: [{env: GONE}]}]",
            "warn",
            "upstreams.a.base_url",
            "base_url is http",
        ),
        (
            "upstreams: [{name: a, base_url: 'http://a.example', credentials: [{file: gone}]}]",
            "fail",
            "upstreams.a.credentials.default",
            "the file gone can't be read",
        ),
        (
            "upstreams: [{name: a, base_url: 'http://a.example', credentials: [{file: open}]}]",
            "warn",
            "upstreams.a.credentials.default",
            "everybody on this machine can read open",
        ),
        (
            "upstreams: [{name: a, base_url: 'http://a', ca_file: gone, credentials: [{env: A}]}]",
            "fail",
            "upstreams.a.ca_file",
            "No such file",
        ),
        (
            "upstreams: [{name: a, base_url: 'http://a', models: {b: c}, credentials: [{env: A}]}]",
            "fail",
            "models",
            "the family of 'c' is not known",
        ),
        ("server: {prot: 1}", "fail", "server.prot", "there is no such setting"),
    ],
)
def test_what_a_configuration_lacks_is_found(
    run: Run, tmp_path: Path, text: str, level: str, check: str, message: str
) -> None:
    (tmp_path / "open").write_text("canary")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "gateway.yaml").write_text(text)

    outcome = run("config check --config gateway.yaml --format json")

    checked = json.loads(outcome.out)
    assert checked["ok"] is (outcome.exit_code == 0)
    assert outcome.exit_code == (2 if level == "fail" else outcome.exit_code)
    assert any(
        (each["level"], each["check"]) == (level, check) and message in each["message"]
        for each in checked["findings"]
    ), checked["findings"]
    assert "canary" not in outcome.out


def test_a_configuration_that_can_not_be_loaded_ends_with_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("server: {prot: 1}\n")

    for line in ("config check", "config show", "keys list", "serve", "migrate"):
        outcome = run(f"{line} --config gateway.yaml")
        assert (outcome.exit_code, outcome.out) == (2, "")
        assert "server.prot: there is no such setting; did you mean port?" in outcome.err


def test_serve_without_an_upstream_says_what_to_set(run: Run) -> None:
    outcome = run("serve")

    assert outcome.exit_code == 2
    assert "ARK_API_KEY" in outcome.err
    assert "--sandbox" in outcome.err


def test_a_gateway_that_lacks_an_upstream_lacks_nothing_else(run: Run) -> None:
    run("keys create")

    outcome = run("doctor --format json")

    findings = json.loads(outcome.out)["findings"]
    assert outcome.exit_code == 1
    assert [each["check"] for each in findings if each["level"] == "fail"] == ["upstreams"]
    fine = {each["check"] for each in findings if each["level"] == "ok"}
    assert fine >= {"data folder", "disk", "pepper", "pepper file", "database file", "database"}
    assert fine >= {"clock", "routes", "ledger"}
    assert all(finding["remedy"] for finding in findings if finding["level"] != "ok")


def test_the_doctor_sees_open_secrets_and_a_closed_port(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("keys create")
    (tmp_path / ".data" / "pepper").chmod(0o644)
    monkeypatch.setenv("ARK_API_KEY", "canary-4Zq8")
    monkeypatch.setenv("ARK_BASE_URL", "http://127.0.0.1:9/api/v3")

    outcome = run("doctor --format json")

    levels = {each["check"]: each for each in json.loads(outcome.out)["findings"]}
    assert outcome.exit_code == 1
    assert levels["pepper file"]["level"] == "warn"
    assert levels["pepper file"]["remedy"].startswith("chmod 600 ")
    assert levels["upstream ark, credential default"]["level"] == "fail"
    assert levels["database"]["level"] == "ok"
    assert "canary" not in outcome.out + outcome.err


def test_the_doctor_survives_a_broken_database(run: Run, tmp_path: Path) -> None:
    run("migrate")
    for path in (tmp_path / ".data").glob("gateway.db*"):
        path.unlink()
    (tmp_path / ".data" / "gateway.db").write_bytes(b"no database " * 1000)

    outcome = run("doctor")

    assert outcome.exit_code == 1
    assert "file is not a database" in outcome.out
    assert "sqlalche.me" not in outcome.out
    assert "Traceback" not in outcome.err
