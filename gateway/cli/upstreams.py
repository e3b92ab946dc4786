"""`upstreams`: the configured accounts, what is known of them, and a probe of one."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import rfc3339
from gateway.cli.options import Common, duration_option, with_common
from gateway.cli.output import print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.domain.echoes import EchoReport, Sighting
    from gateway.ports import Runtime
    from gateway.services.probing import Probed, ProbePlan
    from gateway.storage.orphans import StoredOrphan


def build() -> typer.Typer:
    app = typer.Typer(
        name="upstreams",
        help="List accounts and the tasks they have for nobody; probe one.",
        no_args_is_help=True,
    )
    app.command("list")(list_)
    app.command("orphans")(list_orphans)
    app.command("probe")(probe)
    return app


@with_common
def list_(common: Common) -> None:
    """List upstreams by credential: what is lost there, and which markers come back."""
    rows = common.run(_read_accounts)
    if common.is_json:
        print_json(rows)
        return
    columns = ["upstream", "credential", "dialect", "base_url", "unknown", "audited_at", "echoes"]
    print_table(columns, [[_cell(row[column]) for column in columns] for row in rows])


@with_common
def list_orphans(
    common: Common,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
) -> None:
    """List upstream tasks that belong to no task, or to one that was given up."""
    from gateway.storage import orphans

    async def act(runtime: "Runtime") -> "Sequence[StoredOrphan]":
        return await runtime.db.read(orphans.list_newest, limit)

    rows = [
        {
            "upstream": each.upstream,
            "credential": each.credential,
            "upstream_task_id": each.upstream_task_id,
            "status": each.status,
            "model": each.model,
            "tokens": each.tokens,
            "task_id": each.task_id,
            "is_proved": each.is_proved,
            "found_at": rfc3339(each.found_at_ms),
        }
        for each in common.run(act)
    ]
    if common.is_json:
        print_json(rows)
    else:
        columns = list(rows[0]) if rows else ["upstream", "credential", "upstream_task_id"]
        print_table(columns, [list(row.values()) for row in rows])


@with_common
def probe(
    common: Common,
    upstream: Annotated[
        str | None, typer.Option(help="The upstream; the first one if not given.")
    ] = None,
    credential: Annotated[
        str | None, typer.Option(help="Its credential; the first one if not given.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model; the cheapest one if not given.")
    ] = None,
    project: Annotated[str, typer.Option(help="Who pays.")] = "default",
    timeout: Annotated[int | None, duration_option("Watch no longer than this.")] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Spend the money without asking.")] = False,
) -> None:
    """Send one real task, the cheapest, and see which of our markers the upstream gives back.

    Where it does, a submission whose answer is lost is found in its list beyond doubt.
    """
    from gateway.services import probing

    async def plan(runtime: "Runtime") -> "ProbePlan":
        return await probing.plan_probe(
            runtime, project, upstream=upstream, credential=credential, model=model
        )

    planned = common.run(plan)
    _ask(planned, is_agreed=yes)
    wait_s = probing.WAIT_S_DEFAULT if timeout is None else timeout / 1000

    async def act(runtime: "Runtime") -> "Probed":
        return await probing.run_probe(runtime, common.actor, planned, wait_s)

    probed = common.run(act, connects_upstreams=True)
    _print_probed(common, planned, probed)
    raise typer.Exit(0 if probed.report is not None else 1)


def _ask(planned: "ProbePlan", *, is_agreed: bool) -> None:
    """Say what it costs; go on if that is agreed to, else exit."""
    from gateway.domain.money import format_amount

    price = planned.quote.price
    cost = f"{format_amount(planned.cost_micros_max)} {price.cost_currency}"
    charge = f"{format_amount(planned.charge_micros_max)} {price.charge_currency}"
    say(
        f"One task of {planned.model} at {planned.upstream}/{planned.credential}: it costs {cost} "
        f"at most, and the project is charged {charge} at most."
    )
    if is_agreed:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        say("Error: nothing was sent. --yes spends the money.")
        raise typer.Exit(2)
    if not typer.confirm("Send it?", err=True):
        raise typer.Exit(1)


def _print_probed(common: Common, planned: "ProbePlan", probed: "Probed") -> None:
    task, report = probed.task, probed.report
    shown: dict[str, object] = {
        "upstream": planned.upstream,
        "credential": planned.credential,
        "model": planned.model,
        "task_id": task.id,
        "state": task.state.value,
        "upstream_task_id": task.upstream_task_id,
    }
    if common.is_json:
        print_json({**shown, "report": None if report is None else report.as_json()})
        return
    if report is None:
        say("The submission has no known outcome yet: no marker could be looked for.")
    else:
        shown["listed"] = _describe(report.listed)
        for marker, echo in report.echoes.items():
            if echo.is_contradicted:
                shown[marker.value] = "another value is shown than was sent"
            else:
                said = f"list {_describe(echo.listed)}, read {_describe(echo.read)}"
                shown[marker.value] = said
    print_fields(shown)


def _describe(sighting: "Sighting | None") -> str:
    if sighting is None:
        return "never"
    return f"after {sighting.after_ms / 1000:.1f} s ({sighting.status})"


async def _read_accounts(runtime: "Runtime") -> "list[dict[str, object]]":
    from gateway.storage import accounts

    rows = []
    for config in runtime.config.upstreams:
        for credential in config.credentials:
            agenda = await runtime.db.read(accounts.find_agenda, config.name, credential.name)
            rows.append(
                {
                    "upstream": config.name,
                    "credential": credential.name,
                    "dialect": config.dialect,
                    "base_url": config.base_url,
                    "exclusion": config.markers.exclusion,
                    "unknown": agenda.lost_count,
                    **_show_facts(agenda.facts),
                }
            )
    return rows


def _show_facts(facts: "Mapping[str, str]") -> dict[str, object]:
    import json

    from gateway.domain.echoes import report_from_json
    from gateway.storage.meta import AccountFact

    def moment(fact: AccountFact) -> str | None:
        value = facts.get(fact)
        return None if value is None else rfc3339(int(value))

    probed = facts.get(AccountFact.PROBE)
    report = None if probed is None else report_from_json(json.loads(probed))
    return {
        "audited_at": moment(AccountFact.AUDITED_AT_MS),
        "shared_at": moment(AccountFact.SHARED_AT_MS),
        "probed_at": None if report is None else rfc3339(report.at_ms),
        "echoes": None if report is None else _list_echoes(report),
    }


def _list_echoes(report: "EchoReport") -> list[str]:
    return [
        marker.value
        for marker, echo in report.echoes.items()
        if echo.listed is not None and not echo.is_contradicted
    ]


def _cell(value: object) -> object:
    return ", ".join(value) or "none" if isinstance(value, list) else value
