"""The configuration's document and example say what the model says."""

import re

import yaml

from gateway.config import Config
from gateway.settings import list_settings, load_config, variable_of
from gateway.yaml_file import read_yaml_mapping
from scripts.make_configuration import DOCUMENT, EXAMPLE, render_document, render_example


def test_the_document_lists_every_setting_as_it_is() -> None:
    assert DOCUMENT.read_text() == render_document(DOCUMENT.read_text()), (
        "run: .venv/bin/python -m scripts.make_configuration"
    )


def test_the_example_lists_every_setting_as_it_is() -> None:
    assert EXAMPLE.read_text() == render_example(), (
        "run: .venv/bin/python -m scripts.make_configuration"
    )


def test_every_setting_is_described_and_in_the_document() -> None:
    document = DOCUMENT.read_text()

    for path, info in list_settings():
        assert info.description, path
        assert f"| `{'.'.join(path)}` |" in document
        assert f"| `{variable_of(path)}` |" in document


def test_the_example_changes_nothing() -> None:
    assert load_config(EXAMPLE, {}) == Config()


def test_the_example_with_every_setting_taken_in_is_the_defaults() -> None:
    lines = re.sub(r"^( *)#(?=[a-z])", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)

    settings = yaml.safe_load(lines)

    assert Config.model_validate(settings) == Config()
    for path, _ in list_settings():
        section = settings
        for name in path[:-1]:
            section = section[name]
        assert path[-1] in section, path


def test_the_upstream_of_the_example_has_the_defaults() -> None:
    block = re.search(r"^#   upstreams:\n(?:#   .*\n)+", EXAMPLE.read_text(), re.MULTILINE)
    assert block is not None
    settings = yaml.safe_load(re.sub(r"^#   ", "", block[0], flags=re.MULTILINE))

    (upstream,) = Config.model_validate(settings).upstreams

    needed = {"name", "base_url", "credentials"}
    assert set(settings["upstreams"][0]) == set(type(upstream).model_fields)
    shown = {name: settings["upstreams"][0][name] for name in needed}
    assert Config.model_validate({"upstreams": [shown]}).upstreams == (upstream,)


def test_the_files_in_the_document_are_valid() -> None:
    for number, block in enumerate(
        re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    ):
        assert Config.model_validate(yaml.safe_load(block)).upstreams, number


def test_the_example_is_strict_yaml() -> None:
    assert set(read_yaml_mapping(EXAMPLE)) <= set(Config.model_fields)
