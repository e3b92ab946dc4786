"""Options that every command takes, and opening what they name."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, Final, ParamSpec, TypeVar

import typer

from gateway.cli.durations import parse_duration

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.ports import Runtime

P = ParamSpec("P")
T = TypeVar("T")


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"


_OPTIONS: Final = {
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
    "output": (
        Format.TABLE,
        Annotated[Format, typer.Option("--format", help="How results are printed.")],
    ),
}
Duration = Annotated[int, typer.Option(parser=parse_duration, metavar="DURATION")]
"""Milliseconds, written as 30s, 15m, 24h or 7d."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the common options say."""

    data_dir: Path | None
    config: Path | None
    output: Format

    @property
    def is_json(self) -> bool:
        return self.output is Format.JSON

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
        self, act: Callable[["Runtime"], Awaitable[T]], *, connects_upstreams: bool = False
    ) -> T:
        """Open the configured database, do one thing, close it.

        Works beside a running server. No loop is started.
        """
        return asyncio.run(_run(_quieten(self.load()), act, connects_upstreams=connects_upstreams))


def with_common(command: Callable[Concatenate[Common, P], None]) -> Callable[..., None]:
    """Return the command with the common options in place of its first argument."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        common = Common(**{name: kwargs.pop(name) for name in _OPTIONS})
        command(common, *args, **kwargs)

    signature = inspect.signature(command)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (default, kind) in _OPTIONS.items()
    ]
    own = [*signature.parameters.values()][1:]
    run.__signature__ = signature.replace(parameters=[*own, *options])
    run.__annotations__ = {each.name: each.annotation for each in [*own, *options]}
    return run


def _quieten(config: "Config") -> "Config":
    """Keep facts of business off the terminal, unless a level was asked for."""
    if "log_level" in config.telemetry.model_fields_set:
        return config
    telemetry = config.telemetry.model_copy(update={"log_level": "warning"})
    return config.model_copy(update={"telemetry": telemetry})


async def _run(
    config: "Config", act: Callable[["Runtime"], Awaitable[T]], *, connects_upstreams: bool
) -> T:
    from gateway.errors import GatewayError
    from gateway.runtime import open_runtime

    async with open_runtime(
        config, environ=os.environ, connects_upstreams=connects_upstreams
    ) as runtime:
        try:
            return await act(runtime)
        except GatewayError as error:
            failure = error  # raised outside: a task group would wrap it
    raise failure
