"""Options that every command takes, and opening what they name."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import asyncio
import gc
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer
from typer.models import OptionInfo

from gateway.cli.actors import ACTOR_VARIABLE, find_actor, parse_actor
from gateway.cli.durations import parse_duration

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.ports import Runtime

T = TypeVar("T")


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


class ReportFormat(StrEnum):
    """What reports can be printed as, too."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


_OPTIONS: Final[Mapping[str, tuple[object, object]]] = {
    "data_dir": (
        None,
        Annotated[
            Path | None,
            typer.Option("--data-dir", metavar="DIR", help="Folder of the database and secrets."),
        ],
    ),
    "config": (
        None,
        Annotated[
            Path | None,
            typer.Option("--config", metavar="FILE", help="Configuration file; $GATEWAY_CONFIG."),
        ],
    ),
    "actor": (
        None,
        Annotated[
            str | None,
            typer.Option(
                "--actor",
                metavar="NAME",
                parser=parse_actor,
                envvar=ACTOR_VARIABLE,
                help="Who acts, for the record; the system's user if not given.",
            ),
        ],
    ),
    "output": (
        Format.TABLE,
        Annotated[Format, typer.Option("--format", help="How results are printed.")],
    ),
}
_REPORT_OUTPUT: Final = (
    ReportFormat.TABLE,
    Annotated[ReportFormat, typer.Option("--format", help="How the report is printed.")],
)


def duration_option(meaning: str) -> OptionInfo:
    """Return an option that takes 30s, 15m, 24h or 7d and gives milliseconds."""
    option: OptionInfo = typer.Option(parser=parse_duration, metavar="DURATION", help=meaning)
    return option


@dataclass(frozen=True, slots=True)
class Common:
    """What the common options say."""

    data_dir: Path | None
    config: Path | None
    output: Format | ReportFormat
    given_actor: str | None = None

    @property
    def actor(self) -> str:
        """Who acts, as the audit and the ledger have it: `cli:<name>`."""
        return find_actor(self.given_actor, os.environ)

    @property
    def is_json(self) -> bool:
        return self.output.value == Format.JSON.value

    def load(
        self, overrides: Mapping[str, object] | None = None, *, honours_ark: bool = True
    ) -> "Config":
        """Return the configuration. Raises ConfigurationError."""
        from gateway.settings import load_config

        return load_config(
            self.config,
            os.environ,
            {"data_dir": self.data_dir, **(overrides or {})},
            honours_ark=honours_ark,
        )

    def run(
        self,
        act: Callable[["Runtime"], Awaitable[T]],
        *,
        connects_upstreams: bool = False,
        creates: bool = False,
        checks_keys: bool = False,
    ) -> T:
        """Open the configured database, do one thing, close it; see `open_runtime`.

        Works beside a running server, one with a sandbox too. No loop is started.
        """
        from gateway.cli.simulated import find_sandbox
        from gateway.runtime import open_runtime

        config = find_sandbox(_quieten(self.load()))

        async def run() -> T:
            async with open_runtime(
                config,
                environ=os.environ,
                connects_upstreams=connects_upstreams,
                creates=creates,
                checks_keys=checks_keys,
            ) as runtime:
                stay()
                return await act(runtime)

        return asyncio.run(run())


def with_common(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the common options in place of its first argument, a `Common`."""
    return _with_options(command, _OPTIONS)


def with_common_of_reports(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command as `with_common` does; it can print CSV, too."""
    return _with_options(command, {**_OPTIONS, "output": _REPORT_OUTPUT})


def _with_options(
    command: Callable[..., None], options: Mapping[str, tuple[object, object]]
) -> Callable[..., None]:
    @wraps(command)
    def run(
        *,
        data_dir: Path | None,
        config: Path | None,
        actor: str | None,
        output: Format | ReportFormat,
        **own: object,
    ) -> None:
        command(Common(data_dir, config, output, actor), **own)

    parameters = [
        *list(inspect.signature(command).parameters.values())[1:],
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kind)
            for name, (value, kind) in options.items()
        ),
    ]
    # What typer reads of a function.
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def stay() -> None:
    """Collect garbage again, see gateway.__main__, but not what was loaded to get here."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _quieten(config: "Config") -> "Config":
    """Keep facts of business off the terminal, unless a level was asked for."""
    if "log_level" in config.telemetry.model_fields_set:
        return config
    telemetry = config.telemetry.model_copy(update={"log_level": "warning"})
    return config.model_copy(update={"telemetry": telemetry})
