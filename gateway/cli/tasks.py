"""`tasks`: what clients asked for, of every project. Works beside a running server."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import parse_moment, rfc3339
from gateway.cli.importing import import_
from gateway.cli.options import Common, duration_option, with_common
from gateway.cli.output import print_fields, print_json, print_table, say
from gateway.cli.story import story

if TYPE_CHECKING:
    from gateway.ports import Runtime
    from gateway.services.operating import TaskReport
    from gateway.services.resolving import Decision

TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id.")]


def build() -> typer.Typer:
    app = typer.Typer(
        name="tasks",
        help="List, show, await, cancel, resolve and erase tasks.",
        no_args_is_help=True,
    )
    app.command("list")(list_)
    app.command("show")(show)
    app.command("story")(story)
    app.command("wait")(wait)
    app.command("cancel")(cancel)
    app.command("resolve")(resolve)
    app.command("erase")(erase)
    app.command("import")(import_)
    return app


@with_common
def list_(
    common: Common,
    project: Annotated[str | None, typer.Option(help="Only this project's tasks.")] = None,
    state: Annotated[
        str | None, typer.Option(help="Only tasks in this state: queued, unknown, failed ...")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
) -> None:
    """List tasks, the newest first."""
    from gateway.domain.tasks import TaskState
    from gateway.services import operating

    words = [each.value for each in TaskState]
    if state is not None and state not in words:
        raise typer.BadParameter(f"the state must be one of {', '.join(words)}")
    reports = common.run(
        lambda runtime: operating.list_reports(
            runtime, limit, project_name=project, state=TaskState(state) if state else None
        )
    )
    rows = [_row(report) for report in reports]
    if common.is_json:
        print_json(rows)
    else:
        columns = ["id", "project", "state", "model", "created_at"]
        print_table(columns, [[row[column] for column in columns] for row in rows])


@with_common
def show(common: Common, task_id: TaskId) -> None:
    """Show a task, with where it went upstream."""
    from gateway.services import operating

    _print_report(common, common.run(lambda runtime: operating.get_report(runtime, task_id)))


@with_common
def wait(
    common: Common,
    task_id: TaskId,
    timeout: Annotated[int | None, duration_option("Give up after this time.")] = None,
) -> None:
    """Wait until a task has ended; the exit code is 0 if it succeeded, else 1."""
    from gateway.cli.waiting import wait_for_end
    from gateway.domain.tasks import TERMINAL, TaskState

    report = common.run(lambda runtime: wait_for_end(runtime, task_id, timeout))
    if report.task.state not in TERMINAL:
        say(f"The task is still {report.task.state.value}.")
    _print_report(common, report)
    raise typer.Exit(0 if report.task.state is TaskState.SUCCEEDED else 1)


@with_common
def cancel(common: Common, task_id: TaskId) -> None:
    """Cancel a queued task, at the upstream too."""
    from gateway.services import operating

    async def act(runtime: "Runtime") -> "TaskReport":
        return await operating.cancel(runtime, common.actor, task_id)

    _print_report(common, common.run(act, connects_upstreams=True))


@with_common
def resolve(
    common: Common,
    task_id: TaskId,
    found: Annotated[
        str | None,
        typer.Option(metavar="UPSTREAM_ID", help="The upstream has it: as this task of its own."),
    ] = None,
    reason: Annotated[
        str,
        typer.Option(help="Why; goes to the ledger and the audit. Not needed with --found alone."),
    ] = "",
    *,
    absent: Annotated[
        bool, typer.Option("--absent", help="The upstream never had it: release what is held.")
    ] = False,
    charge: Annotated[
        bool, typer.Option("--charge", help="The upstream bills it: charge what was quoted.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="--found, though the upstream shows it in another shape; --absent, though nobody "
            "can look whether the upstream has it.",
        ),
    ] = False,
) -> None:
    """Decide of a task whose submission nothing explains, or whose hold nothing ends.

    The upstream is asked first: what it shows of the task goes before --absent and --charge.
    """
    from gateway.ids import is_upstream_task_id
    from gateway.services.resolving import Decision, Verdict

    if (found is not None) + absent + charge != 1:
        raise typer.BadParameter("give one of --found, --absent and --charge")
    if found is not None and not is_upstream_task_id(found):
        raise typer.BadParameter("--found takes an upstream's task id")
    if force and charge:
        raise typer.BadParameter("--force goes with --found or --absent")
    if not reason.strip() and (force or found is None):
        option = "--force" if force else "--absent" if absent else "--charge"
        raise typer.BadParameter(f"{option} goes with --reason, which says why")
    verdict = Verdict.ABSENT if absent else Verdict.CHARGE if charge else Verdict.FOUND
    decision = Decision(verdict, found, reason, force)
    _print_report(common, _resolve(common, task_id, decision))


def _resolve(common: Common, task_id: str, decision: "Decision") -> "TaskReport":
    """Decide, after a look at the upstream if it can be connected to, or if it must be."""
    from gateway.errors import ConfigurationError
    from gateway.services.resolving import Verdict, resolve

    async def act(runtime: "Runtime") -> "TaskReport":
        return await resolve(runtime, common.actor, task_id, decision)

    try:
        return common.run(act, connects_upstreams=True)
    except ConfigurationError as error:
        is_blind_absent = decision.verdict is Verdict.ABSENT and decision.is_forced
        if decision.verdict is not Verdict.CHARGE and not is_blind_absent:
            raise
        say(f"No upstream is asked: {error}")
        return common.run(act)


@with_common
def erase(
    common: Common,
    task_id: Annotated[str | None, typer.Option("--id", help="The request of this task.")] = None,
    project: Annotated[str | None, typer.Option(help="The requests of this project.")] = None,
    before: Annotated[
        str | None,
        typer.Option(metavar="DATE|AGE", help="Requests of tasks made before, as 2026-11-22, 30d."),
    ] = None,
) -> None:
    """Replace what clients sent by its hashes, for good. All conditions given must hold."""
    if task_id is None and project is None and before is None:
        raise typer.BadParameter("say which requests: --id, --project or --before")
    from gateway.clock import SystemClock
    from gateway.services import operating

    before_ms = parse_moment(before, SystemClock().now_ms()) if before is not None else None
    erased_count = common.run(
        lambda runtime: operating.erase_requests(
            runtime, common.actor, task_id=task_id, project_name=project, before_ms=before_ms
        )
    )
    if common.is_json:
        print_json({"erased": erased_count})
    else:
        print(f"{erased_count} {'request' if erased_count == 1 else 'requests'} erased")


def _row(report: "TaskReport") -> dict[str, object]:
    task = report.task
    return {
        "id": task.id,
        "project": report.project.name,
        "state": task.state.value,
        "model": task.model,
        "key_id": task.key_id,
        "upstream": task.route.upstream,
        "upstream_task_id": task.upstream_task_id,
        "created_at": rfc3339(task.created_at_ms),
        "updated_at": rfc3339(task.updated_at_ms),
        "error_code": task.error.code if task.error is not None else None,
        "imported": task.is_imported,
    }


def _print_report(common: Common, report: "TaskReport") -> None:
    task = report.task
    if common.is_json:
        from gateway.domain.tasks import TaskState
        from gateway.http.rendering import task_object
        from gateway.status_cache import Entry

        # A rejected task has no public status: to its client the submit failed.
        is_public = task.state is not TaskState.REJECTED
        public = task if is_public else replace(task, state=TaskState.FAILED)
        print_json(
            {
                **task_object(Entry(public, report.request_body, 0.0)),
                "state": task.state.value,
                "project": report.project.name,
                "key_id": task.key_id,
                "upstream": task.route.upstream,
                "upstream_task_id": task.upstream_task_id,
                "upstream_request_id": task.upstream_request_id,
                "hold_micros": report.hold_micros,
                "cost_micros": report.cost_micros,
            }
        )
        return
    from gateway.domain.money import format_amount

    row = _row(report)
    del row["error_code"]
    row["credential"] = task.route.credential
    row["upstream_request_id"] = task.upstream_request_id
    row["hold"] = None if report.hold_micros is None else format_amount(report.hold_micros)
    row["cost"] = None if report.cost_micros is None else format_amount(report.cost_micros)
    if task.error is not None:
        row["error"] = f"{task.error.code}: {task.error.message}"
    content = (task.fields or {}).get("content")
    if isinstance(content, dict):
        row["video_url"] = content.get("video_url")
    print_fields(row)
