"""The Dockerfile as text: linted, and in step with the rest of the repository."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import gateway
from gateway.config import Config, ServerConfig

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")


def read_instructions() -> list[tuple[str, str]]:
    """Return (instruction, arguments), with comments dropped and lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (word, rest) for word, _, rest in (line.partition(" ") for line in text.split("\n")) if word
    ]


def final_stage() -> dict[str, list[str]]:
    instructions = read_instructions()
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    stage: dict[str, list[str]] = {}
    for word, rest in instructions[start:]:
        stage.setdefault(word, []).append(rest)
    return stage


def final_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in final_stage()["ENV"] for pair in line.split())


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, path], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    result = lint(DOCKERFILE)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_would_find_a_careless_line(tmp_path: Path) -> None:
    careless = tmp_path / "Dockerfile"
    careless.write_text("FROM python\nRUN pip install requests\n")
    assert "DL3013" in lint(careless).stdout


def test_both_stages_use_one_slim_python_with_the_projects_lowest_version() -> None:
    instructions = read_instructions()
    assert instructions[0] == ("ARG", "PYTHON_IMAGE=python:3.11-slim-bookworm")
    bases = [rest for word, rest in instructions if word == "FROM"]
    assert bases == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"


def test_runs_as_a_numeric_user_that_owns_only_the_data_folder() -> None:
    stage = final_stage()
    assert stage["USER"] == ["10001:10001"]
    assert stage["RUN"] == ["install --directory --owner=10001 --group=10001 --mode=0700 /data"]
    assert not any("--chown" in line for line in stage["COPY"])


def test_the_environment_is_made_of_settings_that_exist() -> None:
    environment = final_environment()
    assert environment["GATEWAY_SERVER__HOST"] == "0.0.0.0"
    assert environment["GATEWAY_DATA_DIR"] == "/data"
    assert {"data_dir", "server"} <= set(Config.model_fields)
    assert "host" in ServerConfig.model_fields
    assert json.loads(final_stage()["VOLUME"][0]) == ["/data"]


def test_starts_and_stops_without_a_shell() -> None:
    stage = final_stage()
    assert json.loads(stage["ENTRYPOINT"][0]) == ["seedance-gateway"]
    assert json.loads(stage["CMD"][0]) == ["serve"]
    assert stage["STOPSIGNAL"] == ["SIGTERM"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "seedance-gateway" in project["scripts"]


def test_the_health_check_asks_the_default_port_in_python() -> None:
    (line,) = final_stage()["HEALTHCHECK"]
    command = json.loads(line[line.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/livez" in command[2]
    assert f" or {ServerConfig().port})" in command[2]
    ports = {int(port) for port in final_stage()["EXPOSE"][0].split()}
    assert ports == {ServerConfig().port, ServerConfig().metrics_port}


def test_installs_from_hashed_locks_only() -> None:
    installs = [
        command
        for word, rest in read_instructions()
        if word == "RUN"
        for command in rest.split("&&")
        if " install " in command and "pip" in command
    ]
    assert len(installs) == 3
    for command in installs:
        assert (
            "--require-hashes --only-binary :all:" in command or "--no-deps --no-index" in command
        )


def test_the_build_lock_pins_what_the_development_lock_pins() -> None:
    def entries(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text()
        return {re.sub(r"\n\s*#.*", "", entry) for entry in re.split(r"\n(?=\S)", text.strip())}

    build = entries("build.lock")
    assert any(entry.startswith("hatchling==") for entry in build)
    assert build <= entries("dev.lock")


def test_only_what_is_copied_enters_the_build() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if not rule.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source.partition("/")[0]
        for word, rest in read_instructions()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert admitted == copied


def test_all_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((ROOT / "helm" / "seedance-gateway" / "Chart.yaml").read_text())
    assert project["version"] == chart["appVersion"] == gateway.__version__


def test_the_chart_mounts_the_data_folder_of_the_image() -> None:
    template = (ROOT / "helm/seedance-gateway/templates/deployment.yaml").read_text()
    assert f"mountPath: {final_environment()['GATEWAY_DATA_DIR']}\n" in template
