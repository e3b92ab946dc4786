"""`doctor`: is everything there that a gateway needs, and if not, what to do."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import Common, with_common

if TYPE_CHECKING:
    from gateway.config import Config, UpstreamConfig
    from gateway.ports import Runtime
    from gateway.services.diagnosing import Finding


@with_common
def doctor(
    common: Common,
    *,
    pepper_is_safe: Annotated[
        bool,
        typer.Option(
            "--pepper-is-safe",
            help="Note that a copy of the pepper is kept apart from the database's backups.",
        ),
    ] = False,
) -> None:
    """Check configuration, data folder, database, clock and upstreams; exit 1 if one fails."""
    from gateway.cli.checks import check_config, check_host
    from gateway.cli.findings import find_refusals, has_failed, print_findings
    from gateway.cli.simulated import find_sandbox
    from gateway.services.diagnosing import Level
    from gateway.settings import ConfigRefused

    try:
        configured = common.load({"telemetry.log_level": "error"})
    except ConfigRefused as error:
        print_findings(common, find_refusals(error))
        raise typer.Exit(2) from None
    beside = find_sandbox(configured)
    # Of a trial beside it, nothing follows for the upstreams that a live start would use.
    config = configured if configured.upstreams else beside
    findings = [
        *check_config(config, os.environ, no_upstream=Level.FAIL),
        *check_host(config),
    ]
    broken = {each.check for each in findings if has_failed([each])}
    sound = [
        each
        for each in config.upstreams
        if not any(check.startswith(f"upstreams.{each.name}.") for check in broken)
    ]
    followed = (*config.upstreams, *beside.upstreams)
    is_trial = not configured.upstreams if config.upstreams else None
    confirming = common.actor if pepper_is_safe else None
    findings += asyncio.run(
        _examine(config, sound, followed, is_trial=is_trial, confirming=confirming)
    )
    print_findings(common, findings)
    if has_failed(findings):
        raise typer.Exit(1)


async def _examine(
    config: "Config",
    upstreams: Sequence["UpstreamConfig"],
    followed: Sequence["UpstreamConfig"],
    *,
    is_trial: bool | None,
    confirming: str | None,
) -> Sequence["Finding"]:
    from gateway.clock import SystemClock
    from gateway.observability.metrics import Metrics
    from gateway.runtime import open_upstreams
    from gateway.services.diagnosing import check_upstreams

    findings = list(
        await _examine_store(config, followed, is_trial=is_trial, confirming=confirming)
    )
    async with open_upstreams(upstreams, os.environ, SystemClock(), Metrics()) as opened:
        return [*findings, *await check_upstreams(opened.values())]


async def _examine_store(
    config: "Config",
    followed: Sequence["UpstreamConfig"],
    *,
    is_trial: bool | None,
    confirming: str | None,
) -> Sequence["Finding"]:
    from gateway.errors import ConfigurationError, StorageUnavailable
    from gateway.runtime import has_data, open_runtime
    from gateway.services.diagnosing import (
        Finding,
        Level,
        check_books,
        check_budget,
        check_clock,
        check_database,
        check_ledger,
        check_restore,
        check_routes,
        judge_budget,
    )

    if not has_data(config):
        message = f"there is no gateway data in {config.data_dir} yet"
        database = Finding("database", Level.WARN, message, "The first start makes it.")
        return [database, judge_budget(config, ())]
    try:
        async with open_runtime(
            config, environ=os.environ, connects_upstreams=False, creates=False, checks_keys=False
        ) as runtime:
            database = await check_database(runtime)
            if database.level is not Level.OK:
                return [database]
            return [
                database,
                *await _examine_pepper(runtime, confirming=confirming),
                await check_clock(runtime),
                await check_routes(runtime, followed),
                await check_books(runtime, is_trial=is_trial),
                await check_restore(runtime),
                await check_ledger(runtime),
                await check_budget(runtime),
            ]
    except (ConfigurationError, StorageUnavailable, OSError) as error:
        return [Finding("start", Level.FAIL, str(error), "Nothing more can be checked.")]


async def _examine_pepper(runtime: "Runtime", *, confirming: str | None) -> Sequence["Finding"]:
    from gateway.services.diagnosing import (
        Level,
        check_pepper,
        check_pepper_copy,
        confirm_pepper_copy,
    )

    pepper = await check_pepper(runtime)
    if pepper.level is not Level.OK:
        return [pepper]
    if confirming is not None:
        await confirm_pepper_copy(runtime, confirming)
    return [pepper, await check_pepper_copy(runtime)]
