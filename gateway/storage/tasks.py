"""Tasks. Their state moves by `apply_transition` alone: a compare-and-set on (id, version).

`version` counts every change that a client can see: the moves, and the client's own delete. The
times of the next look (`claim_due`, `reschedule`) are ours alone and leave it as it is.

Functions that serve a client take its project and have it in the WHERE: a foreign task and an
unknown one are the same nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa

from gateway.domain.tasks import (
    OBSERVED,
    PUBLIC_STATUS,
    TERMINAL,
    Bill,
    Event,
    JsonObject,
    Route,
    Task,
    TaskError,
    TaskId,
    TaskState,
)
from gateway.ports import Change, ChangeKind
from gateway.storage import changes, presence, requests
from gateway.storage.requests import StoredRequest
from gateway.storage.schema import attempts, task_requests, task_transitions, tasks


@dataclass(frozen=True, slots=True)
class StoredTask:
    """A task and the JSON text of its normalized request, as it may be echoed."""

    task: Task
    request_body: str | None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What a client asks of its list; an empty field asks nothing. `statuses` are public words."""

    since_ms: int
    statuses: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    model: str | None = None
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, and how many tasks the whole list has."""

    total: int
    items: tuple[StoredTask, ...]


@dataclass(frozen=True, slots=True)
class Reschedule:
    """When to look at a task again, as long as it is still at `version`."""

    task_id: str
    version: int
    next_poll_at_ms: int | None
    poll_count: int
    missing_count: int
    missing_since_ms: int | None
    known_poll_at_ms: int | None = None
    """When the look was due that this one follows; an earlier time, set meanwhile, stays."""


# Built once: to build a statement costs ten times what it costs to run it.
_OWNED: Final = (
    tasks.c.project_id == sa.bindparam("owner_id"),
    tasks.c.deleted_at_ms.is_(None),
    tasks.c.state != TaskState.REJECTED.value,
)
_NEWEST: Final = (tasks.c.created_at_ms.desc(), tasks.c.id.desc())
_STORED: Final = sa.select(tasks, task_requests.c.body.label("request_body")).outerjoin(
    task_requests, task_requests.c.task_id == tasks.c.id
)
_FIND: Final = _STORED.where(tasks.c.id == sa.bindparam("wanted_id"))
_FIND_OWNED: Final = _FIND.where(*_OWNED)
_ADMIT: Final = sa.insert(tasks)
_ADD_HISTORY: Final = sa.insert(task_transitions)
_PLANNED_AT: Final = sa.bindparam("planned_at_ms", type_=sa.BigInteger)
# What else is set follows from the parameters. A callback may have asked for a look while the one
# before it was under way, whose result knows nothing of it: then the earlier time stays.
_UPDATE: Final = (
    sa.update(tasks)
    .where(tasks.c.id == sa.bindparam("known_id"), tasks.c.version == sa.bindparam("known_version"))
    .values(
        next_poll_at_ms=sa.case(
            (_PLANNED_AT.is_(None), sa.null()),
            (tasks.c.next_poll_at_ms < sa.bindparam("known_poll_at_ms"), tasks.c.next_poll_at_ms),
            else_=_PLANNED_AT,
        )
    )
)
_FOLLOWED: Final = (
    tasks.c.upstream == sa.bindparam("at_upstream"),
    tasks.c.credential == sa.bindparam("by_credential"),
    tasks.c.state.in_(sorted(OBSERVED)),
    tasks.c.next_poll_at_ms.is_not(None),
)
_NEXT_DUE_AT: Final = sa.select(sa.func.min(tasks.c.next_poll_at_ms)).where(*_FOLLOWED)
_DUE: Final = (
    sa.select(tasks.c.id)
    .where(
        *_FOLLOWED,
        (tasks.c.next_poll_at_ms <= sa.bindparam("now_ms"))
        | (tasks.c.next_poll_at_ms > sa.bindparam("far_ms")),
    )
    .order_by(tasks.c.next_poll_at_ms)
    .limit(sa.bindparam("count_max"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_CLAIM_DUE: Final = (
    sa.update(tasks)
    .where(tasks.c.id.in_(sa.select(_DUE.c.id)))
    .values(next_poll_at_ms=sa.bindparam("lease_until_ms"))
    .returning(tasks)
)


def admit(
    conn: sa.Connection, task: Task, stored_request: str, request_expires_at_ms: int | None
) -> None:
    """Record a new task, its request and its first row of history."""
    conn.execute(_ADMIT, _row(task))
    requests.insert(conn, StoredRequest(task.id, stored_request, request_expires_at_ms))
    _add_history(conn, task, None, None)


def admit_imported(conn: sa.Connection, task: Task) -> None:
    """Record a task made elsewhere, whose request we never had, and its first row of history."""
    conn.execute(_ADMIT, _row(task))
    _add_history(conn, task, None, None)


def apply_transition(conn: sa.Connection, before: Task, after: Task, event: Event) -> bool:
    """Move the task from `before` to `after`. False, and nothing is written, if it has moved on."""
    moved = conn.execute(
        _UPDATE,
        {
            "known_id": before.id,
            "known_version": before.version,
            "known_poll_at_ms": before.next_poll_at_ms,
            "planned_at_ms": after.next_poll_at_ms,
            **_moving(after),
        },
    )
    if moved.rowcount == 0:
        return False
    _add_history(conn, after, before.state, event)
    _report(conn, after.id, after.version)
    return True


def lock(conn: sa.Connection, task_id: str) -> None:
    """Keep the task from moving, and its id from being given, before this transaction ends."""
    conn.execute(sa.select(tasks.c.id).where(tasks.c.id == task_id).with_for_update())


def put_bill(conn: sa.Connection, task_id: str, bill: Bill) -> None:
    """Show what an ended task cost, once that is known after its end."""
    version = conn.execute(
        sa.update(tasks)
        .where(tasks.c.id == task_id)
        .values(bill=json.dumps(asdict(bill)), version=tasks.c.version + 1)
        .returning(tasks.c.version)
    ).scalar_one()
    _report(conn, task_id, version)


def find_owned(conn: sa.Connection, project_id: str, task_id: str) -> StoredTask | None:
    """Return the project's task, unless its client deleted it or never got its id."""
    row = conn.execute(_FIND_OWNED, {"wanted_id": task_id, "owner_id": project_id}).one_or_none()
    return None if row is None else _stored_task(row)


def find(conn: sa.Connection, task_id: str) -> StoredTask | None:
    """Return any task, whosever and whatever it is: for operators and our own loops."""
    row = conn.execute(_FIND, {"wanted_id": task_id}).one_or_none()
    return None if row is None else _stored_task(row)


def find_by_upstream_id(
    conn: sa.Connection, upstream: str, credential: str, upstream_task_id: str
) -> Task | None:
    """Return the task that an upstream task belongs to."""
    row = conn.execute(
        sa.select(tasks).where(
            tasks.c.upstream == upstream,
            tasks.c.credential == credential,
            tasks.c.upstream_task_id == upstream_task_id,
        )
    ).one_or_none()
    return None if row is None else _task(row)


def find_ids(conn: sa.Connection, task_ids: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Return those of the ids that tasks have here, with the upstream and project id of each."""
    chosen = sa.select(tasks.c.id, tasks.c.upstream, tasks.c.project_id).where(
        tasks.c.id.in_(task_ids)
    )
    return {row.id: (row.upstream, row.project_id) for row in conn.execute(chosen)}


def page_owned(
    conn: sa.Connection, project_id: str, chosen: TaskFilter, offset: int, limit: int
) -> Page:
    """Return one page of the project's visible tasks, newest first."""
    conditions = [*_OWNED, *_conditions(chosen)]
    owner = {"owner_id": project_id}
    count = sa.select(sa.func.count()).select_from(tasks).where(*conditions)
    total = conn.execute(count, owner)
    page = _STORED.where(*conditions).order_by(*_NEWEST).offset(offset).limit(limit)
    rows = conn.execute(page, owner)
    return Page(total.scalar_one(), tuple(_stored_task(row) for row in rows))


def hide(conn: sa.Connection, project_id: str, task_id: str, at_ms: int) -> bool:
    """Take an ended task out of its client's view. False if there is none to take."""
    hidden = conn.execute(
        sa.update(tasks)
        .where(tasks.c.id == task_id, tasks.c.state.in_(sorted(TERMINAL)), *_OWNED)
        .values(deleted_at_ms=at_ms, version=tasks.c.version + 1)
        .returning(tasks.c.version),
        {"owner_id": project_id},
    ).scalar_one_or_none()
    if hidden is None:
        return False
    _report(conn, task_id, hidden)
    return True


def next_due_at(conn: sa.Connection, upstream: str, credential: str) -> int | None:
    """Return when the next look of this credential is due, or None if it has no task to follow."""
    of = {"at_upstream": upstream, "by_credential": credential}
    due_at_ms: int | None = conn.execute(_NEXT_DUE_AT, of).scalar_one()
    return due_at_ms


def count_followed(conn: sa.Connection) -> Mapping[tuple[str, str], int]:
    """Return how many tasks are to be followed or found, by upstream and credential."""
    route = (tasks.c.upstream, tasks.c.credential)
    is_followed = tasks.c.state.in_(sorted({*OBSERVED, TaskState.UNKNOWN}))
    rows = conn.execute(sa.select(*route, sa.func.count()).where(is_followed).group_by(*route))
    return {(row[0], row[1]): row[2] for row in rows}


def claim_due(
    conn: sa.Connection,
    upstream: str,
    credential: str,
    *,
    now_ms: int,
    far_ms: int,
    lease_until_ms: int,
    limit: int,
) -> Sequence[Task]:
    """Lease up to `limit` of the credential's tasks whose look is due, the longest due first.

    No two callers get the same task before the lease ends: it is the next look's new time. No look
    is ever planned after `far_ms`: one that is was planned by a clock that went wrong, and is due.
    """
    rows = conn.execute(
        _CLAIM_DUE,
        {
            "at_upstream": upstream,
            "by_credential": credential,
            "now_ms": now_ms,
            "far_ms": far_ms,
            "lease_until_ms": lease_until_ms,
            "count_max": limit,
        },
    )
    return [_task(row) for row in rows]


def reschedule(conn: sa.Connection, looks: Sequence[Reschedule]) -> None:
    """Set when to look at each task again; one that has moved on meanwhile is left alone."""
    if not looks:
        return
    conn.execute(
        _UPDATE,
        # In the order of ids, so that two pollers lock shared rows in the same order.
        [
            {
                "known_id": look.task_id,
                "known_version": look.version,
                "known_poll_at_ms": look.known_poll_at_ms,
                "planned_at_ms": look.next_poll_at_ms,
                "poll_count": look.poll_count,
                "missing_count": look.missing_count,
                "missing_since_ms": look.missing_since_ms,
            }
            for look in sorted(looks, key=lambda look: look.task_id)
        ],
    )


def find_lost(
    conn: sa.Connection,
    now_ms: int,
    limit: int,
    *,
    owner: str = "",
    alive_for_ms: int | None = None,
) -> Sequence[Task]:
    """Return tasks still reserved past their submit deadline, the longest first.

    With `alive_for_ms` also those whose process is another one than `owner` and was not seen for so
    long: whatever it sent, nobody waits for the answer any more.
    """
    is_lost = tasks.c.submit_deadline_at_ms <= now_ms
    if alive_for_ms is not None:
        shared = presence.shared_now_ms(conn.dialect.name, sa.literal(now_ms, sa.BigInteger))
        alive = presence.find_alive(shared, sa.literal(alive_for_ms, sa.BigInteger))
        is_lost |= (attempts.c.owner != owner) & attempts.c.owner.not_in(alive)
    rows = conn.execute(
        sa.select(tasks)
        .outerjoin(attempts, attempts.c.task_id == tasks.c.id)
        .where(tasks.c.state == TaskState.RESERVED.value, is_lost)
        .order_by(tasks.c.submit_deadline_at_ms)
        .limit(limit)
    )
    return [_task(row) for row in rows]


def list_chosen(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Sequence[Task]:
    """Return the tasks that meet all conditions, the oldest first: for other query functions."""
    chosen = sa.select(tasks).where(*conditions).order_by(tasks.c.created_at_ms, tasks.c.id)
    return [_task(row) for row in conn.execute(chosen)]


def count_unfinished(conn: sa.Connection) -> Mapping[TaskState, int]:
    """Return how many tasks are in each state that is not the end, 0 where there is none."""
    unfinished = sorted(set(TaskState) - TERMINAL)
    rows = conn.execute(
        sa.select(tasks.c.state, sa.func.count())
        .where(tasks.c.state.in_(unfinished))
        .group_by(tasks.c.state)
    )
    return dict.fromkeys(unfinished, 0) | {TaskState(state): count for state, count in rows}


def list_all(
    conn: sa.Connection,
    limit: int,
    *,
    project_id: str | None = None,
    state: TaskState | None = None,
    since_ms: int = 0,
) -> Sequence[Task]:
    """Return the newest tasks of all projects or one, hidden ones too: for operators."""
    chosen = sa.select(tasks).where(tasks.c.created_at_ms >= since_ms)
    if project_id is not None:
        chosen = chosen.where(tasks.c.project_id == project_id)
    if state is not None:
        chosen = chosen.where(tasks.c.state == state.value)
    return [_task(row) for row in conn.execute(chosen.order_by(*_NEWEST).limit(limit))]


def _conditions(chosen: TaskFilter) -> Sequence[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [tasks.c.created_at_ms >= chosen.since_ms]
    if chosen.statuses:
        states = [state for state, word in PUBLIC_STATUS.items() if word in chosen.statuses]
        conditions.append(tasks.c.state.in_(sorted(states)))
    if chosen.task_ids:
        conditions.append(tasks.c.id.in_(chosen.task_ids))
    if chosen.model is not None:
        conditions.append(tasks.c.model == chosen.model)
    if chosen.service_tier is not None:
        conditions.append(tasks.c.service_tier == chosen.service_tier)
    return conditions


def _add_history(
    conn: sa.Connection, task: Task, from_state: TaskState | None, event: Event | None
) -> None:
    conn.execute(
        _ADD_HISTORY,
        {
            "task_id": task.id,
            "version": task.version,
            "from_state": from_state,
            "to_state": task.state,
            "event": event,
            "at_ms": task.updated_at_ms,
        },
    )


def _report(conn: sa.Connection, task_id: str, version: int) -> None:
    changes.emit(conn, Change(ChangeKind.TASK, task_id, version))


def _row(task: Task) -> dict[str, object]:
    return {
        "id": task.id,
        "project_id": task.project_id,
        "key_id": task.key_id,
        "model": task.model,
        "family": task.family,
        "upstream": task.route.upstream,
        "credential": task.route.credential,
        "deployment": task.route.deployment,
        "created_at_ms": task.created_at_ms,
        "submit_deadline_at_ms": task.submit_deadline_at_ms,
        "service_tier": task.service_tier,
        "next_poll_at_ms": task.next_poll_at_ms,
        **_moving(task),
    }


def _moving(task: Task) -> dict[str, object]:
    """Return the columns that a move may change."""
    error = task.error
    return {
        "state": task.state,
        "version": task.version,
        "updated_at_ms": task.updated_at_ms,
        "expires_at_ms": task.expires_at_ms,
        "upstream_task_id": task.upstream_task_id,
        "upstream_request_id": task.upstream_request_id,
        "fields": _dump(task.fields),
        "error": None if error is None else _dump({"code": error.code, "message": error.message}),
        "poll_count": task.poll_count,
        "missing_count": task.missing_count,
        "missing_since_ms": task.missing_since_ms,
        "deleted_at_ms": task.deleted_at_ms,
        "bill": None if task.bill is None else json.dumps(asdict(task.bill)),
    }


def _dump(fields: JsonObject | None) -> str | None:
    # ASCII only: whatever characters an upstream sends, NUL and lone surrogates too, are storable.
    return None if fields is None else json.dumps(fields, separators=(",", ":"))


def _stored_task(row: sa.Row[Any]) -> StoredTask:
    return StoredTask(_task(row), row.request_body)


def _task(row: sa.Row[Any]) -> Task:
    return Task(
        id=TaskId(row.id),
        project_id=row.project_id,
        key_id=row.key_id,
        model=row.model,
        family=row.family,
        route=Route(row.upstream, row.credential, row.deployment),
        state=TaskState(row.state),
        version=row.version,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        submit_deadline_at_ms=row.submit_deadline_at_ms,
        expires_at_ms=row.expires_at_ms,
        service_tier=row.service_tier,
        upstream_task_id=row.upstream_task_id,
        upstream_request_id=row.upstream_request_id,
        fields=None if row.fields is None else json.loads(row.fields),
        error=None if row.error is None else TaskError(**json.loads(row.error)),
        next_poll_at_ms=row.next_poll_at_ms,
        poll_count=row.poll_count,
        missing_count=row.missing_count,
        missing_since_ms=row.missing_since_ms,
        deleted_at_ms=row.deleted_at_ms,
        bill=None if row.bill is None else Bill(**json.loads(row.bill)),
        called_back_at_ms=row.called_back_at_ms,
    )
