"""`serve` and `sandbox`: the two commands that stay."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from gateway.cli.options import Common, stay, with_common
from gateway.cli.output import print_json
from gateway.errors import ConfigurationError


@with_common
def serve(
    common: Common,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port to listen on; 0 takes free ones, for the metrics too."
        ),
    ] = None,
    sandbox_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Use the sandbox that runs there.")
    ] = None,
    *,
    sandbox: Annotated[
        bool, typer.Option("--sandbox", help="Use a simulated upstream, started beside it.")
    ] = False,
) -> None:
    """Start the gateway."""
    if sandbox and sandbox_url is not None:
        raise typer.BadParameter("give --sandbox or --sandbox-url, not both")
    overrides = {
        "server.host": host,
        "server.port": port,
        "server.metrics_port": 0 if port == 0 else None,
    }
    is_simulated = sandbox or sandbox_url is not None
    config = common.load(overrides, honours_ark=not is_simulated)

    from gateway.cli.serve import ServeOptions, run_serve

    stay()
    options = ServeOptions(sandbox, sandbox_url, common.output.value)
    with _explained():
        exit_code = run_serve(config, options, os.environ)
    raise typer.Exit(exit_code)


@with_common
def sandbox(
    common: Common,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8081,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    seed: Annotated[int, typer.Option(help="The same seed gives the same outcomes.")] = 1,
    time_scale: Annotated[
        float, typer.Option(help="How many times faster than the vendor tasks are.")
    ] = 1.0,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="An oddity to show, see docs/sandbox.md; several are allowed."),
    ] = None,
) -> None:
    """Start the simulated upstream alone."""
    from gateway.sandbox.server import main_sandbox
    from gateway.sandbox.settings import SandboxSettings

    folder = common.load(honours_ark=False).data_dir / "sandbox"
    try:
        settings = SandboxSettings(
            data_dir=folder,
            host=host,
            port=port,
            seed=seed,
            time_scale=time_scale,
            profiles=tuple(profile or ()),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error

    def announce(url: str) -> None:
        if common.is_json:
            print_json({"url": url})
        else:
            print(f"Sandbox  {url}", flush=True)

    stay()
    try:
        with _explained():
            main_sandbox(settings, announce)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ConfigurationError(
            f"Can't listen on {host} port {port}: {os.strerror(error.errno)}. Set another one by "
            "--port; 0 takes a free one."
        ) from error


@contextmanager
def _explained() -> Iterator[None]:
    """Tell of a sandbox that can't have its store as of what the operator can mend."""
    from gateway.sandbox.store import StateInUseError

    try:
        yield
    except (StateInUseError, sqlite3.Error) as error:
        raise ConfigurationError(f"The sandbox can't start: {error}.") from error
