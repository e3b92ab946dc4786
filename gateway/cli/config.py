"""`config`: check, show and describe the configuration."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import os

import typer

from gateway.cli.options import Common, with_common
from gateway.cli.output import print_json


def build() -> typer.Typer:
    app = typer.Typer(
        name="config", help="Check, show and describe the configuration.", no_args_is_help=True
    )
    app.command("check")(check)
    app.command("show")(show)
    app.command("schema")(schema)
    return app


@with_common
def check(common: Common) -> None:
    """Check the configuration and what it points at; the exit code is 2 if it can't work."""
    from gateway.cli.checks import check_config
    from gateway.cli.findings import find_refusals, has_failed, print_findings
    from gateway.settings import ConfigRefused

    try:
        findings = check_config(common.load(), os.environ)
    except ConfigRefused as error:
        if not common.is_json:
            raise
        findings = find_refusals(error)
    print_findings(common, findings)
    if has_failed(findings):
        raise typer.Exit(2)


@with_common
def show(common: Common) -> None:
    """Show every setting as it is in force, without secrets."""
    settings = common.load().model_dump(mode="json")
    if common.is_json:
        print_json(settings)
        return
    import yaml

    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")


@with_common
def schema(common: Common) -> None:
    """Print the JSON Schema of the configuration file, for editors."""
    del common  # it is JSON in every format
    from gateway.config import Config

    print_json(Config.model_json_schema())
