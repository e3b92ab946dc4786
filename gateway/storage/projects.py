"""Projects: what is isolated from each other."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from gateway.domain.projects import AuditEvent, Project
from gateway.storage import audit
from gateway.storage.schema import projects


def insert(conn: sa.Connection, project: Project, event: AuditEvent) -> bool:
    """Add `project` and its audit row. False, and nothing is added, if its name is taken."""
    row = {"id": project.id, "name": project.name, "created_at_ms": project.created_at_ms}
    try:
        with conn.begin_nested():
            conn.execute(sa.insert(projects), row)
    except sa.exc.IntegrityError:
        if find_by_name(conn, project.name) is None:
            raise
        return False
    audit.add(conn, event)
    return True


def find(conn: sa.Connection, project_id: str) -> Project | None:
    """Return the project with this id."""
    return _find(conn, projects.c.id == project_id)


def find_by_name(conn: sa.Connection, name: str) -> Project | None:
    """Return the project with this name."""
    return _find(conn, projects.c.name == name)


def list_projects(conn: sa.Connection) -> Sequence[Project]:
    """Return every project, by name."""
    return [_project(row) for row in conn.execute(sa.select(projects).order_by(projects.c.name))]


def count(conn: sa.Connection) -> int:
    """Return how many projects there are."""
    return conn.execute(sa.select(sa.func.count()).select_from(projects)).scalar_one()


def _find(conn: sa.Connection, condition: sa.ColumnElement[bool]) -> Project | None:
    row = conn.execute(sa.select(projects).where(condition)).one_or_none()
    return None if row is None else _project(row)


def _project(row: sa.Row[Any]) -> Project:
    return Project(id=row.id, name=row.name, created_at_ms=row.created_at_ms)
