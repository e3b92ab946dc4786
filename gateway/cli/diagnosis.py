"""`doctor`: is everything there that a gateway needs, and if not, what to do."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from gateway.cli.options import Common, with_common

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.services.diagnosing import Finding


@with_common
def doctor(common: Common) -> None:
    """Check configuration, data folder, database, clock and upstreams; exit 1 if one fails."""
    from gateway.cli.findings import has_failed, print_findings

    findings = asyncio.run(_examine(common.load({"telemetry.log_level": "error"})))
    print_findings(common, findings)
    if has_failed(findings):
        raise typer.Exit(1)


async def _examine(config: "Config") -> Sequence["Finding"]:
    from gateway.cli.checks import check_config, check_host, is_usable
    from gateway.errors import ConfigurationError, StorageUnavailable
    from gateway.runtime import open_runtime
    from gateway.services.diagnosing import (
        Finding,
        Level,
        check_clock,
        check_database,
        check_routes,
        check_upstreams,
    )

    findings = list(check_config(config, os.environ))
    usable = tuple(each for each in config.upstreams if is_usable(each, os.environ))
    opened = config.model_copy(update={"upstreams": usable})
    try:
        async with open_runtime(opened, environ=os.environ) as runtime:
            findings += check_host(config)
            database = await check_database(runtime)
            findings.append(database)
            if database.level is Level.OK:
                findings.append(await check_clock(runtime))
                findings.append(await check_routes(runtime, config.upstreams))
            findings += await check_upstreams(runtime)
    except (ConfigurationError, StorageUnavailable, OSError) as error:
        findings.append(Finding("start", Level.FAIL, str(error), "Nothing more can be checked."))
    return findings
