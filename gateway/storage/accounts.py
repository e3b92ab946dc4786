"""What the store knows of an upstream account: its submissions without an id, its ids, its facts.

An account is named by upstream and credential. Two credentials may be of one account, as while a
credential is replaced; so a task is known whichever credential of its upstream submitted it.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import sqlalchemy as sa

from gateway.domain.attempts import Attempt
from gateway.domain.billing import EvidenceKind
from gateway.domain.likeness import Sent, Standing
from gateway.domain.reconciling import Control
from gateway.domain.tasks import Event, Task, TaskState
from gateway.storage import attempts, meta, orphans
from gateway.storage import tasks as task_queries
from gateway.storage.orphans import StoredOrphan
from gateway.storage.schema import attempts as attempts_table
from gateway.storage.schema import (
    ledger_entries,
    reservations,
    task_transitions,
    tasks,
)

_IDS_PER_QUERY: Final = 500
_STANDING_OF: Final = {
    TaskState.RESERVED: Standing.IN_FLIGHT,
    TaskState.UNKNOWN: Standing.LOST,
    TaskState.FAILED: Standing.GIVEN_UP,
}
_IS_GIVEN_UP: Final = (
    sa.exists()
    .where(task_transitions.c.task_id == tasks.c.id, task_transitions.c.event == Event.ABSENT.value)
    .correlate(tasks)
)
_IS_REFUSED: Final = (
    sa.exists()
    .where(
        ledger_entries.c.task_id == tasks.c.id,
        ledger_entries.c.evidence.in_([EvidenceKind.REJECTED.value, EvidenceKind.NOT_SENT.value]),
    )
    .correlate(tasks)
)


@dataclass(frozen=True, slots=True)
class Agenda:
    """Which lost submissions of an account there are, and what is noted of it."""

    facts: Mapping[str, str]
    lost_count: int = 0
    oldest_at_ms: int = 0
    """When the first of them was made."""
    first_probe_at_ms: int = 0
    last_probe_at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Claimant:
    """A task that may have an upstream task which we don't know."""

    task: Task
    sent: Sent


@dataclass(frozen=True, slots=True)
class LookUp:
    """What the store says to a reading of an account's list."""

    claimants: Sequence[Claimant]
    known_ids: frozenset[str]
    """Those of the listed ids that tasks have."""
    orphans: Mapping[str, StoredOrphan]
    """Those of them that were recorded before."""
    controls: Mapping[str, Control]
    """By service tier, where there is one."""


def find_agenda(conn: sa.Connection, upstream: str, credential: str) -> Agenda:
    """Return what is lost at the account, and when it is looked for; cheap if nothing is."""
    probe_at_ms = sa.func.coalesce(attempts_table.c.next_probe_at_ms, 0)
    row = conn.execute(
        sa.select(
            sa.func.count(),
            sa.func.min(tasks.c.created_at_ms),
            sa.func.min(probe_at_ms),
            sa.func.max(probe_at_ms),
        )
        .select_from(tasks)
        .join(attempts_table, attempts_table.c.task_id == tasks.c.id)
        .where(*_is_of(upstream, credential), tasks.c.state == TaskState.UNKNOWN.value)
    ).one()
    facts = meta.find_of_account(conn, upstream, credential)
    return Agenda(facts, row[0], row[1], row[2], row[3]) if row[0] else Agenda(facts)


def list_overdue(
    conn: sa.Connection, upstream: str, credential: str, before_ms: int
) -> Sequence[Task]:
    """Return the account's unknown tasks that were made before `before_ms`, the oldest first."""
    return task_queries.list_chosen(
        conn,
        *_is_of(upstream, credential),
        tasks.c.state == TaskState.UNKNOWN.value,
        tasks.c.created_at_ms <= before_ms,
    )


def list_held(conn: sa.Connection, upstream: str, credential: str) -> Sequence[Task]:
    """Return the account's tasks that have ended and whose hold is open, with an upstream task."""
    is_held = sa.exists().where(
        reservations.c.task_id == tasks.c.id, reservations.c.outcome.is_(None)
    )
    return task_queries.list_chosen(
        conn,
        *_is_of(upstream, credential),
        tasks.c.state == TaskState.FAILED.value,
        tasks.c.upstream_task_id.is_not(None),
        is_held.correlate(tasks),
    )


def list_claimants(
    conn: sa.Connection, upstream: str, credential: str, given_up_since_ms: int
) -> Sequence[Claimant]:
    """Return the account's tasks in flight and unknown, and those that were given up.

    Of these the ones whose deadline has passed since `given_up_since_ms`, without any that the
    upstream is known to have refused, or never to have got.
    """
    is_of = _is_of(upstream, credential)
    found = [
        *task_queries.list_chosen(
            conn,
            *is_of,
            tasks.c.state.in_([TaskState.RESERVED.value, TaskState.UNKNOWN.value]),
        ),
        *task_queries.list_chosen(
            conn,
            *is_of,
            tasks.c.state == TaskState.FAILED.value,
            tasks.c.submit_deadline_at_ms >= given_up_since_ms,
            tasks.c.upstream_task_id.is_(None),
            _IS_GIVEN_UP,
            ~_IS_REFUSED,
        ),
    ]
    sent = attempts.find_many(conn, [task.id for task in found])
    return [_claimant(task, sent[task.id]) for task in found if task.id in sent]


def look_up(
    conn: sa.Connection,
    upstream: str,
    credential: str,
    listed_ids: Collection[str],
    tiers: Collection[str],
    *,
    since_ms: int,
    accepted_before_ms: int,
) -> LookUp:
    """Return what is known of the account after its list was read."""
    # In this order. An attempt whose answer comes meanwhile is then seen twice, as a claimant and
    # by its id, and not missed twice, which would make a stranger's task of its own.
    claimants = list_claimants(conn, upstream, credential, since_ms)
    known_ids = find_known(conn, upstream, listed_ids)
    controls = {
        tier: find_control(
            conn,
            upstream,
            credential,
            tier,
            since_ms=since_ms,
            accepted_before_ms=accepted_before_ms,
        )
        for tier in tiers
    }
    return LookUp(
        claimants,
        known_ids,
        orphans.find(conn, upstream, credential, listed_ids),
        {tier: control for tier, control in controls.items() if control is not None},
    )


def find_known(
    conn: sa.Connection, upstream: str, upstream_task_ids: Collection[str]
) -> frozenset[str]:
    """Return those of the ids that tasks have, whichever credential of the upstream made them."""
    return frozenset(find_owners(conn, upstream, upstream_task_ids))


def find_owners(
    conn: sa.Connection, upstream: str, upstream_task_ids: Collection[str]
) -> Mapping[str, str]:
    """Return those of the ids that tasks have, as `find_known`, with the project id of each."""
    credentials = list(_list_credentials(conn, upstream))
    owners: dict[str, str] = {}
    ids = iter(upstream_task_ids)
    while part := list(islice(ids, _IDS_PER_QUERY)):
        rows = conn.execute(
            sa.select(tasks.c.upstream_task_id, tasks.c.project_id).where(
                tasks.c.upstream == upstream,
                tasks.c.credential.in_(credentials),
                tasks.c.upstream_task_id.in_(part),
            )
        )
        owners.update((row.upstream_task_id, row.project_id) for row in rows)
    return owners


def find_control(
    conn: sa.Connection,
    upstream: str,
    credential: str,
    service_tier: str,
    *,
    since_ms: int,
    accepted_before_ms: int,
) -> Control | None:
    """Return the account's last task that a list of the tier has to show.

    It was accepted before `accepted_before_ms`, and the upstream has not lost sight of it since.
    """
    row = conn.execute(
        sa.select(
            tasks.c.upstream_task_id,
            tasks.c.created_at_ms,
            task_transitions.c.at_ms.label("accepted_at_ms"),
            attempts_table.c.markers,
        )
        # By the time of admission, which is what has an index.
        .select_from(reservations)
        .join(tasks, tasks.c.id == reservations.c.task_id)
        .join(task_transitions, task_transitions.c.task_id == tasks.c.id)
        .outerjoin(attempts_table, attempts_table.c.task_id == tasks.c.id)
        .where(
            reservations.c.at_ms >= since_ms,
            reservations.c.at_ms <= accepted_before_ms,
            *_is_of(upstream, credential),
            tasks.c.service_tier == service_tier,
            tasks.c.state != TaskState.CANCELLED.value,
            tasks.c.missing_count == 0,
            task_transitions.c.version == 2,
            task_transitions.c.event == Event.ACCEPTED.value,
            task_transitions.c.at_ms <= accepted_before_ms,
        )
        .order_by(reservations.c.at_ms.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    seed = None if row.markers is None else json.loads(row.markers)["seed"]
    return Control(row.upstream_task_id, row.created_at_ms, row.accepted_at_ms, seed)


def find_last_admission(conn: sa.Connection, before_ms: int) -> int:
    """Return when the last task before `before_ms` was admitted; 0 if there was none.

    What a database has lost by being restored was admitted later than that. No other row tells
    it: operators act on a restored database before it is marked.
    """
    latest = sa.select(sa.func.max(reservations.c.at_ms)).where(reservations.c.at_ms < before_ms)
    return conn.execute(latest).scalar_one() or 0


def _is_of(upstream: str, credential: str) -> tuple[sa.ColumnElement[bool], ...]:
    # Not by the index of ids, which would lead through every task of the account.
    return (tasks.c.upstream.concat("") == upstream, tasks.c.credential.concat("") == credential)


def _list_credentials(conn: sa.Connection, upstream: str) -> Iterator[str]:
    """Yield every credential by which tasks of the upstream were submitted, by single steps."""
    last = ""
    while True:
        name = conn.execute(
            sa.select(sa.func.min(tasks.c.credential)).where(
                tasks.c.upstream == upstream, tasks.c.credential > last
            )
        ).scalar_one()
        if name is None:
            return
        yield name
        last = name


def _claimant(task: Task, attempt: Attempt) -> Claimant:
    return Claimant(
        task,
        Sent(
            attempt,
            task.submit_deadline_at_ms,
            _STANDING_OF[task.state],
            lost_at_ms=task.updated_at_ms,
            is_called_back=task.is_called_back or attempt.claimed_task_id is not None,
            service_tier=task.service_tier,
        ),
    )
