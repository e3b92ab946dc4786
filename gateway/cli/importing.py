"""`tasks import`: tasks from before the switch to the gateway, under their own ids."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import rfc3339_or_none
from gateway.cli.options import Common, duration_option, with_common
from gateway.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from gateway.ports import Runtime
    from gateway.services.importing import ImportReport


@with_common
def import_(
    common: Common,
    upstream: Annotated[str, typer.Option(help="The upstream that made them.")],
    project: Annotated[str, typer.Option(help="The project whose keys shall read them.")],
    credential: Annotated[
        str | None, typer.Option(help="A credential of their account; the first if not given.")
    ] = None,
    since: Annotated[
        int | None, duration_option("All that the upstream lists of the last 7d or less.")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="This task; may be repeated.")
    ] = None,
) -> None:
    """Let clients read tasks that were made before the switch. Nothing is charged for them."""
    if (since is None) == (not ids):
        raise typer.BadParameter("say which tasks: --since or --id")
    from gateway.services import importing
    from gateway.services.judging import LISTED_MS

    if since is not None and since > LISTED_MS:
        raise typer.BadParameter("--since must be 7d or less: upstreams list no older tasks")
    source = importing.Source(upstream, project, credential)

    async def act(runtime: "Runtime") -> "ImportReport":
        if ids:
            return await importing.import_ids(runtime, common.actor, source, ids)
        since_ms = runtime.clock.now_ms() - (since or 0)
        return await importing.import_since(runtime, common.actor, source, since_ms)

    report = common.run(act, connects_upstreams=True)
    _print(common, report)
    raise typer.Exit(0 if _explain(report) else 1)


def _print(common: Common, report: "ImportReport") -> None:
    from gateway.services.importing import Fate

    ours = dict.fromkeys((Fate.IMPORTED, Fate.KNOWN), report.project.name)
    rows = [
        {
            "id": listed.upstream_task_id,
            "status": listed.status,
            "model": listed.model,
            "created_at": rfc3339_or_none(listed.created_at_ms),
            "result": fate.value,
            "project": report.owners.get(listed.upstream_task_id, ours.get(fate)),
        }
        for listed, fate in report.fates
    ]
    if not common.is_json:
        columns = ["id", "status", "model", "created_at", "result", "project"]
        print_table(columns, [[row[column] for column in columns] for row in rows])
        return
    print_json(
        {
            "project": report.project.name,
            "upstream": report.upstream,
            "credential": report.credential,
            **{fate.value: report.count(fate) for fate in Fate},
            "is_complete": report.is_complete,
            "tasks": rows,
        }
    )


def _explain(report: "ImportReport") -> bool:
    """Say what came of it; return whether nothing is left to do."""
    from gateway.services.importing import Fate

    count = report.count(Fate.IMPORTED)
    known = report.count(Fate.KNOWN)
    say(f"{count} imported into the project {report.project.name}, {known} known already.")
    others = ", ".join(sorted(set(report.owners.values())))
    problems = {
        Fate.FOREIGN: f"are known already in other projects ({others}), whose keys alone read "
        "them: they are not imported again.",
        Fate.UNSETTLED: "may be of submissions of the gateway's own that are not settled yet: "
        "import again later.",
        Fate.ORPHAN: "are of submissions of the gateway's own that were given up: they are not "
        "imported.",
        Fate.CLASH: "have the ids of tasks from another upstream: they can't be imported.",
    }
    for fate, words in problems.items():
        if report.count(fate):
            say(f"{report.count(fate)} {words}")
    if not report.is_complete:
        say("The list could not be read to its end: import again.")
    is_left = any(report.count(fate) for fate in (Fate.FOREIGN, Fate.UNSETTLED, Fate.CLASH))
    return report.is_complete and not is_left
