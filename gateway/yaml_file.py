"""Reading YAML that people write: strictly, and with errors that quote nothing of the file.

Plain words mean what YAML 1.2 says: `no` and `on` are text, so is `16:9`; only true and false are
booleans. A key that is given twice, or is not text, is refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

BYTES_MAX: Final = 1024 * 1024
DEPTH_MAX: Final = 32
_EVENTS_COUNT_MAX: Final = 200_000

_MERGE_TAG: Final = "tag:yaml.org,2002:merge"
_PLAIN_WORDS: Final = (
    ("tag:yaml.org,2002:bool", "tTfF", r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    ("tag:yaml.org,2002:int", "-+0123456789", r"[-+]?(?:0|[1-9][0-9]*)\Z"),
    (
        "tag:yaml.org,2002:float",
        "-+.0123456789",
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z",
    ),
    ("tag:yaml.org,2002:null", ("~", "n", "N", ""), r"(?:~|null|Null|NULL|)\Z"),
    (_MERGE_TAG, "<", r"<<\Z"),
)


class YamlError(ValueError):
    """The file can't be read; the message says where and why, and quotes at most a key of it."""


def read_yaml_mapping(path: Path) -> Mapping[str, object]:
    """Return the mapping that the file holds; an empty file holds an empty one.

    Raises: YamlError.
    """
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise YamlError(f"{path}: can't be read: {error.strerror}") from error
    if len(content) > BYTES_MAX:
        raise YamlError(f"{path}: has more than {BYTES_MAX} bytes")
    try:
        _check_size(path, content)
        document = yaml.load(content, Loader=_StrictLoader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise YamlError(f"{path}{line}: {error.problem or 'is not YAML'}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise YamlError(f"{path}: is not YAML in UTF-8") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise YamlError(f"{path}: must be a mapping at its top")
    return document


def _check_size(path: Path, content: bytes) -> None:
    """Refuse what the recursive steps behind this one could not bear."""
    depth = 0
    for count, event in enumerate(yaml.parse(content, Loader=_StrictLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_MAX or count > _EVENTS_COUNT_MAX:
            raise YamlError(f"{path}: nested deeper than {DEPTH_MAX} levels, or too many values")


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, first_chars, pattern in _PLAIN_WORDS:
        for char in first_chars:
            table.setdefault(char, []).append((tag, re.compile(pattern)))
    return table


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_SafeLoader):  # type: ignore[misc]  # one of two
    """The safe loader, with the plain words of YAML 1.2, that refuses keys it would lose."""

    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: object = None) -> object:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=True)
            problem = None
            if not isinstance(key, str):
                problem = "a key is not text: put it in quotes"
            elif key in seen:
                problem = f"the key {key[:64]!r} is given twice"
            if problem is not None:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=bool(deep))
