"""Loading the configuration: file, environment and command line into one checked value.

The problems of all settings are reported at once, each with the setting's path and where it was
set; a file that can't be read is reported alone. Names are quoted, values never: any of them may be
a secret in the wrong place.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gateway.config import Config, Section
from gateway.errors import ConfigurationError
from gateway.yaml_file import DEPTH_MAX, YamlError, read_yaml_mapping

PREFIX: Final = "GATEWAY_"
CONFIG_VARIABLE: Final = "GATEWAY_CONFIG"
SECRET_BYTES_MAX: Final = 64 * 1024
# Variables of commands, which are no settings.
_COMMANDS_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "GATEWAY_ACTOR"})
_VALUES_COUNT_MAX: Final = 100_000
# Orchestrators leave it empty where there is nothing to say. (An empty secret is a mistake.)
_EMPTY_IS_UNSET: Final = "GATEWAY_DATA_DIR"

Location = tuple[str | int, ...]

_REFERENCE: Final = re.compile(r"\$?\$\{([^}]*)\}")
_NAMED: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?\Z", re.DOTALL)
# What Kubernetes sets in every container for a service named `gateway` or `gateway-...`.
_SERVICE_LINK: Final = re.compile(
    r"GATEWAY_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)\Z"
)
_SERVICE_URL: Final = re.compile(r"(?:tcp|udp|sctp)://")
_ONE_CLOUD: Final = (
    "is not set, and a key fits one cloud: give the base URL of the one that issued ARK_API_KEY, "
    "such as https://ark.cn-beijing.volces.com/api/v3 or "
    "https://ark.ap-southeast.bytepluses.com/api/v3"
)
_WORDS: Final = {
    "missing": "is required",
    "model_type": "must be a mapping of settings",
    "tuple_type": "must be a list",
    "too_short": "must have an item at least",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one setting. `source` says where it was set, empty for the file."""

    setting: str
    problem: str
    source: str = ""

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        return f"{self.setting}{where}: {self.problem}"


class ConfigRefused(ConfigurationError):
    """The configuration has problems; the message lists all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "a problem"
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"The configuration has {count}:{lines}")


def load_config(
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
    *,
    honours_ark: bool = True,
) -> Config:
    """Return the configuration of a file, the environment and dotted `overrides`, the last first.

    Without `path` the file is the one that GATEWAY_CONFIG names, if it is set. An override of None
    is none. ARK_API_KEY with ARK_BASE_URL makes an upstream where none is configured; a command
    that brings its own upstream says `honours_ark=False`.

    Raises: ConfigRefused.
    """
    draft = _Draft(environ)
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    if path is not None:
        draft.read_file(path)
    draft.read_common_variables()
    draft.read_variables()
    for setting, value in (overrides or {}).items():
        if value is not None:
            parts = tuple(setting.split("."))
            draft.put(parts, value, "--" + parts[-1].replace("_", "-"))
    if honours_ark and not draft.tree.get("upstreams"):
        draft.read_ark()
    return draft.check()


def list_settings(
    model: type[Section] = Config, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Give path and field of each setting, in order; a list of sections counts as one setting."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from list_settings(info.annotation, (*above, name))
        else:
            yield (*above, name), info


def variable_of(path: tuple[str, ...]) -> str:
    """Return the environment variable that sets the setting."""
    return PREFIX + "__".join(path).upper()


@dataclass(slots=True)
class _Draft:
    """The configuration as far as it is read, and what is wrong with it."""

    environ: Mapping[str, str]
    tree: dict[str, object] = field(default_factory=dict)
    sources: dict[Location, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    values_count: int = 0

    def put(self, path: tuple[str, ...], value: object, source: str) -> None:
        branch = self.tree
        for name in path[:-1]:
            inner = branch.get(name)
            if not isinstance(inner, dict):
                inner = branch[name] = {}
            branch = inner
        branch[path[-1]] = value
        self.sources[path] = source

    def refuse(self, setting: str, problem: str, source: str = "") -> None:
        self.problems.append(Problem(setting, problem, source))

    def read_file(self, path: Path) -> None:
        try:
            document = read_yaml_mapping(path)
        except YamlError as error:
            raise ConfigurationError(f"The configuration file {error}.") from error
        for name, value in document.items():
            if value is not None:  # a section whose settings are all commented out
                self.tree[name] = self._fill_in(value, (name,))

    def _fill_in(self, value: object, where: Location) -> object:
        """Return `value` with its ${NAME} and ${NAME:-default} replaced."""
        self.values_count += 1
        if self.values_count > _VALUES_COUNT_MAX or len(where) > DEPTH_MAX:
            raise ConfigRefused([Problem(str(where[0]), "has too many values; mind the aliases")])
        if isinstance(value, dict):
            return {name: self._fill_in(inner, (*where, name)) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._fill_in(inner, (*where, at)) for at, inner in enumerate(value)]
        if isinstance(value, str):
            if "\0" in value:
                self.refuse(_shown(where), "holds a NUL character")
            return _REFERENCE.sub(lambda match: self._look_up(match, where), value)
        return value

    def _look_up(self, match: re.Match[str], where: Location) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        named = _NAMED.match(match[1])
        if named is None:
            self.refuse(_shown(where), "holds ${...} that is not ${NAME} or ${NAME:-default}")
            return ""
        value = self.environ.get(named[1], "")
        if value or named[2] is not None:
            return value or named[2]
        if named[1] not in self.environ:
            self.refuse(_shown(where), f"the environment variable {named[1]} is not set")
        return value

    def read_common_variables(self) -> None:
        """Take DATABASE_URL and PORT, as everyone sets them."""
        url = self.environ.get("DATABASE_URL")
        if url:
            url = re.sub(r"\Apostgres://", "postgresql://", url)
            self.put(("storage", "url"), url, "DATABASE_URL")
        if self.environ.get("PORT"):
            self.put(("server", "port"), self.environ["PORT"], "PORT")

    def read_variables(self) -> None:
        """Take GATEWAY_*, and refuse those that name no setting."""
        settings = {variable_of(path): (path, info) for path, info in list_settings()}
        for name in sorted(self.environ):
            if not name.startswith(PREFIX) or name in _COMMANDS_VARIABLES:
                continue
            if name == _EMPTY_IS_UNSET and not self.environ[name]:
                continue
            stem = name.removesuffix("_FILE")
            if name in settings:
                self._put_variable(*settings[name], self.environ[name], name)
            elif stem in settings and stem in self.environ:
                self.refuse(name, f"is set, and so is {stem}: set one of them")
            elif stem in settings:
                self._put_file(*settings[stem], Path(self.environ[name]), name)
            elif not _is_service_link(name, self.environ[name]):
                self.refuse(name, "there is no such setting" + _nearest(name, settings))

    def _put_file(self, path: tuple[str, ...], info: FieldInfo, file: Path, source: str) -> None:
        try:
            with file.open("rb") as opened:
                content = opened.read(SECRET_BYTES_MAX + 1)
            if len(content) > SECRET_BYTES_MAX:
                self.refuse(source, f"its file has more than {SECRET_BYTES_MAX} bytes")
                return
            text = content.decode().rstrip("\r\n")
        except OSError as error:
            self.refuse(source, f"its file can't be read: {error.strerror}")
        except UnicodeDecodeError:
            self.refuse(source, "its file is not text in UTF-8")
        else:
            self._put_variable(path, info, text, source)

    def _put_variable(self, path: tuple[str, ...], info: FieldInfo, text: str, name: str) -> None:
        if get_origin(info.annotation) not in {tuple, dict}:
            self.put(path, text, name)
            return
        try:
            self.put(path, json.loads(text), name)
        except (ValueError, RecursionError):
            form = '["a", "b"]' if get_origin(info.annotation) is tuple else '{"a": "b"}'
            self.refuse(_shown(path), f"must be JSON, such as {form}", name)

    def read_ark(self) -> None:
        """Make the upstream of the smallest live start: a key and a base URL."""
        if not self.environ.get("ARK_API_KEY"):
            return
        base_url = self.environ.get("ARK_BASE_URL")
        if not base_url:
            self.refuse("ARK_BASE_URL", _ONE_CLOUD)
            return
        credential = {"env": "ARK_API_KEY"}
        self.tree["upstreams"] = [
            {"name": "ark", "dialect": "ark", "base_url": base_url, "credentials": [credential]}
        ]
        self.sources["upstreams", 0, "base_url"] = "ARK_BASE_URL"

    def check(self) -> Config:
        try:
            config = Config.model_validate(self.tree)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            for detail in details:
                where = detail["loc"]
                if detail["type"] == "too_short" and any(
                    other["loc"][:-1][: len(where)] == where for other in details
                ):
                    continue  # its items are refused, each by itself
                problem = _problem_of(detail["type"], detail["msg"], where)
                self.refuse(_shown(where), problem, self._source_of(where))
            config = None
        if self.problems or config is None:
            raise ConfigRefused(self.problems)
        return config

    def _source_of(self, where: Location) -> str:
        """Return what set the place, or the innermost of what is around it."""
        around = (where[:length] for length in range(len(where), 0, -1))
        return next((self.sources[place] for place in around if place in self.sources), "")


def _problem_of(kind: str, message: str, where: Location) -> str:
    if kind == "extra_forbidden":
        names = _names_at(where[:-1])
        return "there is no such setting" + _nearest(str(where[-1]), names)
    if kind in _WORDS:
        return _WORDS[kind]
    if kind == "string_pattern_mismatch":
        return "has characters that are not allowed: " + message.partition("pattern ")[2]
    message = message.removeprefix("Value error, ").partition(", unable to")[0]
    return message.replace("Input should be", "must be")


def _names_at(where: Location) -> Sequence[str]:
    """Return the names of the settings below a place in the configuration."""
    model: type[Section] | None = Config
    for part in where:
        if isinstance(part, str) and model is not None:
            model = _section_in(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _section_in(annotation: object) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for part in get_args(annotation):
        section = _section_in(part)
        if section is not None:
            return section
    return None


def _nearest(name: str, known: Iterator[str] | Sequence[str] | Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(where: Location) -> str:
    """Return `upstreams[0].base_url` and the like."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where)
    return text.removeprefix(".") or "configuration"


def _is_service_link(name: str, value: str) -> bool:
    if name.endswith("_PORT") and _SERVICE_URL.match(value):
        return True
    return _SERVICE_LINK.match(name) is not None
