"""`projects`: what is isolated from each other."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import rfc3339
from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from gateway.domain.projects import Project


def build() -> typer.Typer:
    app = typer.Typer(name="projects", help="Make and list projects.", no_args_is_help=True)
    app.command("create")(create)
    app.command("list")(list_)
    return app


@with_common
def create(
    common: Common,
    name: Annotated[str, typer.Argument(help="1 to 63 characters of a-z, 0-9, - and _.")],
) -> None:
    """Make a project."""
    from gateway.services import admin

    made = common.run(
        lambda runtime: admin.create_project(runtime, common.actor, name), creates=True
    )
    project = _shown(made)
    if common.is_json:
        print_json(project)
    else:
        print_fields(project)


@with_common
def list_(common: Common) -> None:
    """List the projects, by name."""
    from gateway.services import admin

    projects = [_shown(project) for project in common.run(admin.list_projects)]
    if common.is_json:
        print_json(projects)
    else:
        columns = ["id", "name", "created_at"]
        print_table(columns, [[project[column] for column in columns] for project in projects])


def _shown(project: "Project") -> dict[str, object]:
    return {
        "id": project.id,
        "name": project.name,
        "created_at": rfc3339(project.created_at_ms),
    }
