"""The command line: which commands there are, and how an error becomes an exit code.

Results go to stdout, talk and logs to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or
configuration. What a command needs is imported inside it: a start must not feel slow.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import typer

from gateway import __version__
from gateway.cli import (
    backup,
    config,
    diagnosis,
    keys,
    limits,
    maintenance,
    prices,
    projects,
    servers,
    tasks,
    upstreams,
    usage,
    webhooks,
)
from gateway.cli.output import say
from gateway.errors import ConfigurationError, GatewayError
from gateway.observability.logging import find_driver_code

PROGRAM: Final = "seedance-gateway"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        build_app()(args=argv, prog_name=PROGRAM)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (ConfigurationError, GatewayError, OSError, ExceptionGroup) as error:
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Say what is wrong and return the exit code; a defect of ours is raised again."""
    cause = error
    while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
        cause = cause.exceptions[0]  # as a task group wraps what ends it
    if isinstance(cause, GatewayError):
        driver_code = find_driver_code(cause)
        say(f"Error: {cause.message}" + (f" ({driver_code})" if driver_code else ""))
        return 1
    if isinstance(cause, OSError):
        where = f"{cause.filename}: " if cause.filename is not None else ""
        say(f"Error: {where}{cause.strerror or cause}")
        return 2
    if isinstance(cause, ConfigurationError):
        say(f"Error: {cause}")
        return 2
    raise error


def build_app() -> typer.Typer:
    """Return the program with all its commands."""
    app = typer.Typer(
        help="A reverse proxy for Seedance video generation.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_program)
    app.command("serve")(servers.serve)
    app.command("sandbox")(servers.sandbox)
    app.add_typer(projects.build())
    app.add_typer(keys.build())
    app.add_typer(limits.build())
    app.add_typer(tasks.build())
    app.add_typer(usage.build())
    app.add_typer(prices.build())
    app.add_typer(upstreams.build())
    app.add_typer(webhooks.build())
    app.add_typer(config.build())
    app.command("migrate")(maintenance.migrate)
    app.command("backup")(backup.backup)
    app.command("restore")(backup.restore)
    app.command("doctor")(diagnosis.doctor)
    app.command("openapi")(maintenance.openapi)
    return app


def _show_version(is_asked: bool) -> None:  # noqa: FBT001 - the library calls it so
    if is_asked:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _program(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """A reverse proxy for Seedance video generation."""
    del version
