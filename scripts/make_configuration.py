"""Write what follows from gateway/config.py: the tables of docs/configuration.md, and the example.

Run it after a change of a setting: `.venv/bin/python -m scripts.make_configuration`. A test
compares both files with what it would write.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from gateway.config import Config, CredentialConfig, Section, UpstreamConfig
from gateway.settings import variable_of

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "configuration.md"
EXAMPLE: Final = ROOT / "config" / "gateway.example.yaml"
BEGIN: Final = "<!-- The tables are written by scripts/make_configuration.py. -->\n"
END: Final = "<!-- End of the tables. -->\n"

_WIDTH: Final = 98
_SAMPLE: Final[Mapping[str, object]] = {
    "name": "ark",
    "base_url": "https://ark.cn-beijing.volces.com/api/v3",
    "credentials": [{"name": "default", "env": "ARK_API_KEY"}],
}
_HEAD: Final = """\
# The configuration of the gateway, with every setting at its default. Nothing needs to be set:
# take out the `#` in front of what you change. `seedance-gateway config check --config FILE` reads
# the result; docs/configuration.md tells the rest, environment variables too.
# ${NAME} and ${NAME:-default} take a value from the environment.
"""


def render_document(document: str) -> str:
    """Return docs/configuration.md with its tables written anew."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return head + BEGIN + "\n".join(_render_tables()) + END + tail


def render_example() -> str:
    """Return config/gateway.example.yaml."""
    parts = [_HEAD]
    for name, info in Config.model_fields.items():
        section = _section_of(info.annotation)
        if name == "upstreams":
            parts.append(_render_upstreams())
        elif section is None:
            parts.append("\n".join(_example_lines(Config, name, "")) + "\n")
        else:
            lines = [*_comment(_sentence(section), ""), f"{name}:"]
            for inner in section.model_fields:
                lines += _example_lines(section, inner, "  ")
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _render_tables() -> Iterator[str]:
    yield "### Top level\n"
    yield from _render_table(Config, (), has_variable=True)
    for name, info in Config.model_fields.items():
        section = _section_of(info.annotation)
        if section is not None:
            yield f"### {name}\n"
            yield _sentence(section) + "\n"
            yield from _render_table(section, (name,), has_variable=True)
    for title, model in (("upstreams[]", UpstreamConfig), ("credentials[]", CredentialConfig)):
        yield f"### {title}\n"
        yield _sentence(model) + "\n"
        yield from _render_table(model, (), has_variable=False)


def _render_table(
    model: type[Section], above: tuple[str, ...], *, has_variable: bool
) -> Iterator[str]:
    columns = ["Setting", "Type", "Default", "Meaning"] + ["Environment"] * has_variable
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"
    schemas = model.model_json_schema(mode="validation")["properties"]
    for name, info in model.model_fields.items():
        if _section_of(info.annotation) is not None:
            continue
        default = "required" if info.is_required() else f"`{_default(model, name)}`"
        cells = [
            f"`{'.'.join((*above, name))}`",
            _type_of(schemas[name]).replace("|", "\\|"),
            default if default != "`null`" else "not set",
            info.description or "",
        ]
        if has_variable:
            cells.append(f"`{variable_of((*above, name))}`")
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _render_upstreams() -> str:
    description = Config.model_fields["upstreams"].description
    lines = [f"# {description}", "#upstreams: []", "#", "# One with each of its settings:", "#"]
    lines.append("#   upstreams:")
    defaults = _dumped(UpstreamConfig)
    for name, info in UpstreamConfig.model_fields.items():
        lead = "  - " if name == "name" else "    "
        lines.append(f"#   {lead}{name}: {_yaml(defaults[name])}  # {info.description}")
    return "\n".join(lines) + "\n"


def _example_lines(model: type[Section], name: str, indent: str) -> Sequence[str]:
    description = model.model_fields[name].description or ""
    value = _default(model, name)
    setting = f"{indent}#{name}:" if value == "null" else f"{indent}#{name}: {value}"
    return [*_comment(description, indent), setting]


def _comment(text: str, indent: str) -> Sequence[str]:
    lead = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=lead, subsequent_indent=lead)


def _default(model: type[Section], name: str) -> str:
    return _yaml(_dumped(model)[name])


def _dumped(model: type[Section]) -> Mapping[str, object]:
    """Return the defaults as JSON values, and a sample of what has none."""
    required = {name for name, info in model.model_fields.items() if info.is_required()}
    defaults = model.model_construct().model_dump(mode="json", exclude=required)
    return {**defaults, **{name: _SAMPLE[name] for name in required}}


def _yaml(value: object) -> str:
    return (
        value if isinstance(value, str) and value.replace(".", "").isalnum() else json.dumps(value)
    )


def _type_of(schema: Mapping[str, object]) -> str:
    """Return a JSON Schema in words."""
    options = schema.get("anyOf")
    if isinstance(options, list):
        return _type_of(next(each for each in options if each.get("type") != "null"))
    choices, kind, form = schema.get("enum"), schema.get("type"), schema.get("format")
    if isinstance(choices, list):
        return " | ".join(map(str, choices))
    if form in {"password", "path"}:
        return "secret" if form == "password" else "path"
    items = schema.get("items")
    if isinstance(items, dict):
        return "list of sections" if "$ref" in items else f"list of {_type_of(items)}s"
    if kind in {"integer", "number"}:
        return f"{kind}{_bounds(schema)}"
    return {"object": "map of texts", "string": "text"}.get(str(kind), str(kind))


def _bounds(schema: Mapping[str, object]) -> str:
    words = {
        "minimum": "at least {}",
        "exclusiveMinimum": "above {}",
        "maximum": "at most {}",
    }
    found = [text.format(_plain(schema[name])) for name, text in words.items() if name in schema]
    return "".join(f", {text}" for text in found)


def _plain(number: object) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _section_of(annotation: object) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return None


def _sentence(model: type[Section]) -> str:
    return " ".join((model.__doc__ or "").split())


def main() -> int:
    DOCUMENT.write_text(render_document(DOCUMENT.read_text()))
    EXAMPLE.write_text(render_example())
    return 0


if __name__ == "__main__":
    sys.exit(main())
