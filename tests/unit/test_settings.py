"""Loading the configuration: sources, precedence, and every way to get it wrong."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.config import Config
from gateway.domain.keys import generate
from gateway.errors import ConfigurationError
from gateway.settings import SECRET_BYTES_MAX, ConfigRefused, load_config

UPSTREAM = """\
upstreams:
  - name: ark
    base_url: https://ark.example/api/v3/
    credentials: [{env: ARK_API_KEY}]
"""
PEPPER = "q7Zk2mXv9TbLw4Rn8YcD"


def an_example_key() -> str:
    """Return a well-formed key that nobody drew at random."""
    return generate(lambda count: bytes(7 for _ in range(count)))


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(text)
    return path


def problems_of(path: Path | None, environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigRefused) as refused:
        load_config(path, environ)
    return [str(problem) for problem in refused.value.problems]


def test_nothing_set_gives_the_defaults() -> None:
    assert load_config(None, {"PATH": "/bin", "HOME": "/"}) == Config()


def test_the_command_beats_the_environment_that_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {port: 1, metrics_port: 2, host: a.example, docs: false}\n")
    environ = {"GATEWAY_SERVER__PORT": "3", "GATEWAY_SERVER__METRICS_PORT": "4"}

    config = load_config(path, environ, {"server.port": 5, "server.host": None})

    assert config.server.port == 5
    assert config.server.metrics_port == 4
    assert config.server.host == "a.example"
    assert config.server.docs is False


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {port: 1}\n")
    other = tmp_path / "other.yaml"
    other.write_text("server: {port: 2}\n")

    assert load_config(None, {"GATEWAY_CONFIG": str(path)}).server.port == 1
    assert load_config(other, {"GATEWAY_CONFIG": str(path)}).server.port == 2


def test_a_section_with_all_its_settings_commented_out_is_empty(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "server:\nauth:\n"), {}) == Config()


def test_lists_and_maps_are_json_in_the_environment() -> None:
    upstream = {"name": "a", "base_url": "https://a.example", "credentials": [{"env": "A"}]}
    config = load_config(
        None,
        {
            "GATEWAY_SERVER__ALLOWED_HOSTS": '["a.example", "b.example"]',
            "GATEWAY_MODELS__ENDPOINTS": '{"ep-1": "seedance-1-0-pro"}',
            "GATEWAY_UPSTREAMS": json.dumps([upstream]),
        },
    )

    assert config.server.allowed_hosts == ("a.example", "b.example")
    assert config.models.endpoints == {"ep-1": "seedance-1-0-pro"}
    assert config.upstream("a").credentials[0].env == "A"


def test_a_variable_may_name_a_file_that_holds_its_value(tmp_path: Path) -> None:
    secret = tmp_path / "pepper"
    secret.write_text(PEPPER + "\n")

    config = load_config(None, {"GATEWAY_AUTH__PEPPER_FILE": str(secret)})

    assert config.auth.pepper is not None
    assert config.auth.pepper.get_secret_value() == PEPPER


def test_the_variables_that_everyone_sets_are_taken() -> None:
    config = load_config(None, {"DATABASE_URL": "postgres://u:p@db/x", "PORT": "80"})

    assert config.storage.url is not None
    assert config.storage.url.get_secret_value() == "postgresql://u:p@db/x"
    assert config.server.port == 80


def test_the_longer_names_beat_the_variables_that_everyone_sets() -> None:
    config = load_config(
        None,
        {
            "DATABASE_URL": "mysql://old",
            "PORT": "",
            "GATEWAY_STORAGE__URL": "postgresql://db/new",
            "GATEWAY_SERVER__PORT": "81",
        },
    )

    assert config.storage.url is not None
    assert config.storage.url.get_secret_value() == "postgresql://db/new"
    assert config.server.port == 81


def test_a_key_and_a_base_url_make_an_upstream() -> None:
    environ = {"ARK_API_KEY": "canary", "ARK_BASE_URL": "https://ark.example/api/v3"}

    (upstream,) = load_config(None, environ).upstreams

    assert (upstream.name, upstream.dialect) == ("ark", "ark")
    assert upstream.base_url == "https://ark.example/api/v3"
    assert upstream.credentials[0].env == "ARK_API_KEY"


def test_configured_upstreams_make_the_two_variables_mere_credentials(tmp_path: Path) -> None:
    path = write(tmp_path, UPSTREAM)

    config = load_config(path, {"ARK_API_KEY": "canary"})

    assert [upstream.base_url for upstream in config.upstreams] == ["https://ark.example/api/v3"]


def test_a_key_without_a_base_url_is_refused_unless_an_upstream_is_brought() -> None:
    environ = {"ARK_API_KEY": "canary"}

    (problem,) = problems_of(None, environ)

    assert problem.startswith("ARK_BASE_URL: is not set, and a key fits one cloud")
    assert "canary" not in problem
    assert load_config(None, environ, honours_ark=False).upstreams == ()


def test_a_wrong_base_url_is_traced_to_its_variable() -> None:
    environ = {"ARK_API_KEY": "canary", "ARK_BASE_URL": "ark.example"}

    (problem,) = problems_of(None, environ)

    assert problem.startswith("upstreams[0].base_url (ARK_BASE_URL): must be an http or https URL")


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://", "https://host:many/", "https://host:99999/", "https://u:PW@h/",
            "https://host/?PW", "https://host/#PW"],
)  # fmt: skip
@pytest.mark.parametrize("setting", ["upstreams[0].base_url", "server.public_url"])
def test_a_url_that_nothing_can_be_appended_to_is_refused(
    tmp_path: Path, setting: str, url: str
) -> None:
    text = f"server: {{public_url: '{url}'}}\n"
    if setting.startswith("upstreams"):
        text = f"upstreams: [{{name: a, base_url: '{url}', credentials: [{{env: A}}]}}]\n"

    (problem,) = problems_of(write(tmp_path, text), {})

    assert problem == (
        f"{setting}: must be an http or https URL with a host, without user info and query"
    )


def test_values_are_filled_in_from_the_environment(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "data_dir: ${FOLDER}/data\n"
        "server: {port: '${MY_PORT:-81}', host: '${EMPTY:-0.0.0.0}', submit_message: '$${A} $5'}\n"
        "upstreams:\n"
        "  - {name: a, base_url: 'https://${HOST}/v3', region: '${EMPTY}', "
        "credentials: [{env: A}]}\n",
    )

    config = load_config(path, {"FOLDER": "/srv", "HOST": "a.example", "EMPTY": ""})

    assert config.data_dir == Path("/srv/data")
    assert (config.server.port, config.server.host) == (81, "0.0.0.0")
    assert config.server.submit_message == "${A} $5"
    assert (config.upstreams[0].base_url, config.upstreams[0].region) == (
        "https://a.example/v3",
        "",
    )


def test_what_is_filled_in_is_not_read_as_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {host: '${HOST}'}\n")

    config = load_config(path, {"HOST": "a\nport: 1 ${PATH}"})

    assert config.server.host == "a\nport: 1 ${PATH}"
    assert config.server.port == 8080


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: {host: '${GONE}'}", "server.host: the environment variable GONE is not set"),
        (
            "upstreams: [{name: '${GONE}'}]",
            "upstreams[0].name: the environment variable GONE is not set",
        ),
        ("data_dir: ${A-b}", "data_dir: holds ${...} that is not ${NAME} or ${NAME:-default}"),
        ("server: {prot: 1}", "server.prot: there is no such setting; did you mean port?"),
        ("sever: {}", "sever: there is no such setting; did you mean server?"),
        ("zzz: 1", "zzz: there is no such setting"),
        (
            UPSTREAM + "    basurl: x\n",
            "upstreams[0].basurl: there is no such setting; did you mean base_url?",
        ),
        (
            UPSTREAM.replace("env:", "evn:"),
            "upstreams[0].credentials[0].evn: there is no such setting; did you mean env?",
        ),
        ('data_dir: "a\\0b"', "data_dir: holds a NUL character"),
        ("server: {port: 65536}", "server.port: must be less than or equal to 65535"),
        ("server: {port: many}", "server.port: must be a valid integer"),
        ("server: 5", "server: must be a mapping of settings"),
        ("models: {files: a.yaml}", "models.files: must be a list"),
        ("upstreams: [{}]", "upstreams[0].name: is required"),
        (
            "upstreams: [{name: a, base_url: http://a, credentials: []}]",
            "upstreams[0].credentials: must have an item at least",
        ),
        ("validation: {mode: lax}", "validation.mode: must be 'enforce' or 'warn'"),
        ("observer: {jitter: 1e999}", "observer.jitter: must be"),
        (
            "finance: {timezone: Mars/Olympus}",
            "finance.timezone: is not a time zone of this system, such as UTC or Asia/Singapore",
        ),
        ("finance: {timezone: ../../etc/passwd}", "finance.timezone: is not a time zone"),
    ],
)
def test_a_wrong_file_is_refused_by_path(tmp_path: Path, text: str, problem: str) -> None:
    assert any(each.startswith(problem) for each in problems_of(write(tmp_path, text), {}))


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"GATEWAY_SERVR__PORT": "1"},
            "GATEWAY_SERVR__PORT: there is no such setting; did you mean GATEWAY_SERVER__PORT?",
        ),
        (
            {"GATEWAY_DATADIR_FILE": "/x"},
            "GATEWAY_DATADIR_FILE: there is no such setting; did you mean GATEWAY_DATA_DIR?",
        ),
        ({"GATEWAY_PORT": "8080"}, "GATEWAY_PORT: there is no such setting"),
        ({"GATEWAY_SERVER__PORT": "x"}, "server.port (GATEWAY_SERVER__PORT): must be a valid"),
        ({"PORT": "x"}, "server.port (PORT): must be a valid integer"),
        (
            {"GATEWAY_SERVER__ALLOWED_HOSTS": "a,b"},
            "server.allowed_hosts (GATEWAY_SERVER__ALLOWED_HOSTS): must be JSON, such as",
        ),
        (
            {"GATEWAY_UPSTREAMS": '[{"name": "a b"}]'},
            "upstreams[0].name (GATEWAY_UPSTREAMS): has characters that are not allowed",
        ),
        ({"GATEWAY_MODELS__ENDPOINTS": "[" * 100_000}, "models.endpoints"),
        (
            {"GATEWAY_AUTH__PEPPER_FILE": "/nowhere/pepper"},
            "GATEWAY_AUTH__PEPPER_FILE: its file can't be read: No such file or directory",
        ),
        (
            {"GATEWAY_AUTH__PEPPER_FILE": "/x", "GATEWAY_AUTH__PEPPER": PEPPER},
            "GATEWAY_AUTH__PEPPER_FILE: is set, and so is GATEWAY_AUTH__PEPPER: set one of them",
        ),
    ],
)
def test_a_wrong_environment_is_refused_by_name(environ: dict[str, str], problem: str) -> None:
    assert any(each.startswith(problem) for each in problems_of(None, environ))


def test_a_secret_file_is_bounded_and_must_be_text(tmp_path: Path) -> None:
    large, binary = tmp_path / "large", tmp_path / "binary"
    large.write_bytes(b"x" * (SECRET_BYTES_MAX + 1))
    binary.write_bytes(b"\xff\xfe")

    found = problems_of(
        None, {"GATEWAY_AUTH__PEPPER_FILE": str(large), "GATEWAY_STORAGE__URL_FILE": str(binary)}
    )

    assert found == [
        f"GATEWAY_AUTH__PEPPER_FILE: its file has more than {SECRET_BYTES_MAX} bytes",
        "GATEWAY_STORAGE__URL_FILE: its file is not text in UTF-8",
    ]


def test_an_empty_data_folder_counts_as_unset() -> None:
    assert load_config(None, {"GATEWAY_DATA_DIR": ""}) == Config()


def test_what_kubernetes_sets_for_a_service_is_passed_over() -> None:
    environ = {
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "8080",
        "GATEWAY_SERVICE_PORT_HTTP": "8080",
        "GATEWAY_PORT": "tcp://10.0.0.1:8080",
        "GATEWAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1",
        "GATEWAY_SEEDANCE_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SEEDANCE_GATEWAY_PORT_9090_TCP_PROTO": "tcp",
    }

    assert load_config(None, environ) == Config()


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "server: {prot: 1, port: x}\ndata_dir: ${GONE}\n")

    with pytest.raises(ConfigRefused) as refused:
        load_config(path, {"GATEWAY_SERVR__PORT": "1"})

    message = str(refused.value)
    assert message.startswith("The configuration has 4 problems:\n")
    for setting in ("server.prot", "server.port", "data_dir", "GATEWAY_SERVR__PORT"):
        assert f"\n  {setting}: " in message


def test_names_are_given_once(tmp_path: Path) -> None:
    twin = UPSTREAM.removeprefix("upstreams:\n")
    keys = UPSTREAM.replace("[{env: ARK_API_KEY}]", "[{env: A}, {env: B}]")

    assert problems_of(write(tmp_path, UPSTREAM + twin), {}) == [
        "upstreams: the name 'ark' is given twice"
    ]
    assert problems_of(write(tmp_path, keys), {}) == [
        "upstreams[0].credentials: the name 'default' is given twice"
    ]


@pytest.mark.parametrize(
    "pepper",
    [
        "",
        "tiny",
        "fifteen-bytes-x",
        "a" * 64,
        "abcabcabcabcabcabcabcabc",
        "change-me-please-now",
        "ExamplePepperOfTheDocs",
        "01234567890123456789",
    ],
)
def test_a_weak_pepper_is_refused_and_not_shown(pepper: str) -> None:
    (problem,) = problems_of(None, {"GATEWAY_AUTH__PEPPER": pepper})

    assert problem.startswith("auth.pepper (GATEWAY_AUTH__PEPPER): is ")
    assert not pepper or pepper not in problem


def test_no_value_is_ever_shown(tmp_path: Path) -> None:
    canary = "canary-4Zq8"
    path = write(
        tmp_path,
        f"bootstrap_key: [{canary}]\n"
        f"storage: {{url: 'mysql://u:{canary}@db', readers_count: {canary}}}\n"
        f"auth: {{pepper: {canary}}}\n"
        "upstreams:\n"
        f"  - {{name: '{canary}!', base_url: 'ftp://{canary}', "
        f"credentials: [{{env: '{canary}'}}]}}\n",
    )

    with pytest.raises(ConfigRefused) as refused:
        load_config(path, {"GATEWAY_SERVER__PORT": canary, "PORT": canary, "ARK_API_KEY": canary})

    assert len(refused.value.problems) == 8
    assert canary not in str(refused.value)
    assert canary not in repr(refused.value)


def test_aliases_can_not_blow_up_a_small_file(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        same = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{same}]")

    with pytest.raises(ConfigRefused, match="too many values"):
        load_config(write(tmp_path, "\n".join(lines)), {})


def test_a_value_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match="too many values"):
        load_config(write(tmp_path, "server: &s {host: *s}\n"), {})


def test_a_file_that_is_no_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gateway\.yaml:2: the key 'a' is given twice"):
        load_config(write(tmp_path, "a: 1\na: 2\n"), {})


@pytest.mark.parametrize(
    ("key", "flaw"),
    [
        ("sg_live_canary", "is not a key"),
        (PEPPER, "is not a key"),
        (an_example_key(), "is an example or has next to no entropy"),
    ],
)
def test_a_weak_bootstrap_key_is_refused_and_not_shown(key: str, flaw: str) -> None:
    (problem,) = problems_of(None, {"GATEWAY_BOOTSTRAP_KEY": key})

    assert problem.startswith(f"bootstrap_key (GATEWAY_BOOTSTRAP_KEY): {flaw}")
    assert not key or key not in problem


def test_a_generated_bootstrap_key_is_taken() -> None:
    key = generate(secrets.token_bytes)

    config = load_config(None, {"GATEWAY_BOOTSTRAP_KEY": key})

    assert config.bootstrap_key is not None
    assert config.bootstrap_key.get_secret_value() == key
    assert key not in repr(config)
