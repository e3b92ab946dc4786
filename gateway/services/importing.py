"""Import: tasks that were made at the upstream before the switch, under the ids they have there.

They are read and listed, and followed to their end. Nothing is held or charged for them: they were
bought before. An upstream task that may have come of one of the gateway's own submissions is left
to the reconciler.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.domain.attempts import ListedTask
from gateway.domain.likeness import DEFAULT_TIER, Sent
from gateway.domain.projects import AuditEvent, Project
from gateway.domain.quotes import settles
from gateway.domain.reconciling import Pass, match
from gateway.domain.tasks import IMPORTED_KEY, Route, Task, TaskError, TaskId, TaskState, event_of
from gateway.errors import InvalidRequest, NotFound
from gateway.ports import Runtime, Upstream
from gateway.services.admin import get_project
from gateway.services.judging import LISTED_MS, policy_of
from gateway.services.listing_passes import read_list
from gateway.services.observing import schedule_look
from gateway.services.patience import ask_patiently
from gateway.services.status import no_such_task
from gateway.storage import accounts, audit, orphans, projects, tasks

if TYPE_CHECKING:
    from sqlalchemy import Connection

_UNKNOWN: Final = "unknown"
_ROWS_PER_BATCH: Final = 200
_NO_REASON: Final = TaskError("InternalServiceError", "The upstream gave no reason.")


class Fate(StrEnum):
    """What became of an upstream task in an import."""

    IMPORTED = "imported"
    KNOWN = "known"  # it is ours already: submitted here, or imported before
    FOREIGN = "foreign"  # the same, but of another project
    UNSETTLED = "unsettled"  # it may be of a submission of ours whose outcome is not known yet
    ORPHAN = "orphan"  # it is of a submission of ours that was given up
    CLASH = "clash"  # its id is that of another upstream's task


@dataclass(frozen=True, slots=True)
class Source:
    """Where tasks are imported from, and for whom."""

    upstream_name: str
    project_name: str
    credential: str | None = None
    """The upstream's first one if not given."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import came to."""

    project: Project
    upstream: str
    credential: str
    fates: Sequence[tuple[ListedTask, Fate]]
    """Newest first."""
    is_complete: bool = True
    """Whether the whole list was read; else another import may find more."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """The names of the projects that foreign tasks are of, by the tasks' ids at the upstream."""

    def count(self, fate: Fate) -> int:
        return sum(each is fate for _, each in self.fates)


@dataclass(frozen=True, slots=True)
class _Place:
    project: Project
    upstream: Upstream
    credential: str


@dataclass(frozen=True, slots=True)
class _Own:
    """What the store has that listed tasks may be."""

    sent: Sequence[Sent]
    owners: Mapping[str, str]
    """Project id by upstream task id, of those that are known."""
    orphan_ids: Collection[str]


async def import_since(runtime: Runtime, actor: str, source: Source, since_ms: int) -> ImportReport:
    """Import what the upstream lists that was made since then.

    Raises: NotFound (project, upstream, credential), InvalidRequest if the upstream has no list,
    UpstreamFault.
    """
    place = await _find_place(runtime, source)
    if not place.upstream.supports_list:
        raise InvalidRequest(
            f"The upstream {place.upstream.name} can't list its tasks: import them by their ids.",
            param="upstream",
        )
    families = runtime.catalog.families.values()
    tiers = {DEFAULT_TIER, *(tier for family in families for tier in family.service_tiers)}
    reading = await read_list(runtime, place.upstream, place.credential, tiers, since_ms)
    listed = [
        task
        for task in reading.items.values()
        if task.created_at_ms is None or task.created_at_ms >= since_ms
    ]
    return await _import(runtime, actor, place, listed, is_complete=reading.is_whole)


async def import_ids(
    runtime: Runtime, actor: str, source: Source, upstream_task_ids: Sequence[str]
) -> ImportReport:
    """Import these tasks.

    Raises: TaskNotFound for one that the upstream does not show, before any is imported; NotFound
    (project, upstream, credential), UpstreamFault.
    """
    place = await _find_place(runtime, source)
    listed = []
    for upstream_task_id in dict.fromkeys(upstream_task_ids):
        ask = partial(place.upstream.find_task, place.credential, upstream_task_id)
        found = await ask_patiently(runtime, ask)
        if found is None or not found.status:
            raise no_such_task(upstream_task_id)
        listed.append(found)
    return await _import(runtime, actor, place, listed)


async def _find_place(runtime: Runtime, source: Source) -> _Place:
    project = await get_project(runtime, source.project_name)
    upstream = runtime.upstreams.get(source.upstream_name)
    if upstream is None:
        names = ", ".join(runtime.upstreams) or "none"
        raise NotFound(f"There is no such upstream; configured: {names}.", param="upstream")
    credential = source.credential or upstream.credentials[0]
    if credential not in upstream.credentials:
        names = ", ".join(upstream.credentials)
        raise NotFound(f"There is no such credential; configured: {names}.", param="credential")
    return _Place(project, upstream, credential)


async def _import(
    runtime: Runtime,
    actor: str,
    place: _Place,
    listed: Sequence[ListedTask],
    *,
    is_complete: bool = True,
) -> ImportReport:
    newest_first = sorted(listed, key=lambda task: task.created_at_ms or 0, reverse=True)
    now_ms = runtime.clock.now_ms()
    ids = [task.upstream_task_id for task in newest_first]
    # After the list: then the attempt of every listed task is known that was submitted here.
    own = await runtime.db.read(
        _find_own, place.upstream.name, place.upstream.credentials, ids, now_ms - LISTED_MS
    )
    fates = _judge(runtime, place, newest_first, own, now_ms)
    owners = dict(own.owners)
    wanted = [task for task in newest_first if fates[task.upstream_task_id] is Fate.IMPORTED]
    for start in range(0, len(wanted), _ROWS_PER_BATCH):
        batch = wanted[start : start + _ROWS_PER_BATCH]
        made = [_make_task(runtime, place, task) for task in batch]
        events = [_audit(runtime, actor, place, task) for task in made]
        added = await runtime.db.write(_add, list(zip(made, events, strict=True)))
        fates |= {task_id: fate for task_id, (fate, _) in added.items()}
        owners |= {task_id: owner_id for task_id, (_, owner_id) in added.items()}
    names = {each.id: each.name for each in await runtime.db.read(projects.list_projects)}
    return ImportReport(
        place.project,
        place.upstream.name,
        place.credential,
        [(task, fates[task.upstream_task_id]) for task in newest_first],
        is_complete,
        {each: names[owners[each]] for each, fate in fates.items() if fate is Fate.FOREIGN},
    )


def _find_own(
    conn: "Connection",
    upstream: str,
    credentials: Sequence[str],
    listed_ids: Collection[str],
    since_ms: int,
) -> _Own:
    """Return what is ours, whichever credential it was submitted by: two may be of one account."""
    # In this order: an attempt whose answer comes meanwhile is then seen twice, and not missed.
    sent = [
        claimant.sent
        for credential in credentials
        for claimant in accounts.list_claimants(conn, upstream, credential, since_ms)
    ]
    owners = accounts.find_owners(conn, upstream, listed_ids)
    orphan_ids = [
        orphan_id
        for credential in credentials
        for orphan_id in orphans.find(conn, upstream, credential, listed_ids)
    ]
    return _Own(sent, owners, orphan_ids)


def _judge(
    runtime: Runtime, place: _Place, listed: Sequence[ListedTask], own: _Own, now_ms: int
) -> dict[str, Fate]:
    """Return what is to become of each; only what can't be of any attempt is imported."""
    policy = policy_of(runtime, place.upstream.name, {}, now_ms)
    seen = Pass(tuple(listed), now_ms, now_ms, is_complete=True)
    verdict = match(own.sent, seen, {*own.owners, *own.orphan_ids}, policy)
    fates = {task.upstream_task_id: Fate.UNSETTLED for task in listed}
    for orphan in verdict.orphans:
        fate = Fate.ORPHAN if orphan.task_ids else Fate.IMPORTED
        fates[orphan.listed.upstream_task_id] = fate
    fates |= dict.fromkeys(own.orphan_ids, Fate.ORPHAN)
    return fates | {
        task_id: _name_known(owner_id, place.project.id) for task_id, owner_id in own.owners.items()
    }


def _name_known(owner_id: str, project_id: str) -> Fate:
    return Fate.KNOWN if owner_id == project_id else Fate.FOREIGN


def _make_task(runtime: Runtime, place: _Place, listed: ListedTask) -> Task:
    now_ms = runtime.clock.now_ms()
    created_at_ms = listed.created_at_ms if listed.created_at_ms is not None else now_ms
    updated_at_ms = listed.updated_at_ms if listed.updated_at_ms is not None else created_at_ms
    model = listed.model or _UNKNOWN
    family = runtime.catalog.find(model)
    state = _state_of(listed)
    expiry_s = listed.expires_after_s or runtime.config.submit.default_expiry_s
    observation = listed.observation
    error = observation.error
    if state is TaskState.FAILED and error is None:
        error = _NO_REASON
    tier = observation.fields.get("service_tier")
    task = Task(
        id=TaskId(listed.upstream_task_id),
        project_id=place.project.id,
        key_id=IMPORTED_KEY,
        model=model,
        family=family.name if family is not None else _UNKNOWN,
        route=Route(place.upstream.name, place.credential, model),
        state=state,
        version=1,
        created_at_ms=created_at_ms,
        updated_at_ms=max(created_at_ms, updated_at_ms),
        submit_deadline_at_ms=created_at_ms,
        expires_at_ms=created_at_ms + expiry_s * 1000,
        service_tier=tier if isinstance(tier, str) else DEFAULT_TIER,
        upstream_task_id=listed.upstream_task_id,
        fields=observation.fields,
        error=error,
    )
    return schedule_look(runtime, task)


def _state_of(listed: ListedTask) -> TaskState:
    """Return the state that is shown; of a word that we do not know, that it is there.

    No more is taken from a success that is shown without its video: a look at it singly is to come.
    """
    is_clear = event_of(listed.status) is not None and settles(listed.observation)
    return TaskState(listed.status) if is_clear else TaskState.QUEUED


def _add(
    conn: "Connection", made: Sequence[tuple[Task, AuditEvent]]
) -> Mapping[str, tuple[Fate, str]]:
    """One transaction: write those that nobody has written meanwhile.

    Return what became of each, with the id of the project that has it.
    """
    present = tasks.find_ids(conn, [task.id for task, _ in made])
    fates: dict[str, tuple[Fate, str]] = {}
    for task, event in made:
        if task.id not in present:
            tasks.admit_imported(conn, task)
            audit.add(conn, event)
            fates[task.id] = Fate.IMPORTED, task.project_id
            continue
        upstream, owner_id = present[task.id]
        is_same = upstream == task.route.upstream
        fate = _name_known(owner_id, task.project_id) if is_same else Fate.CLASH
        fates[task.id] = fate, owner_id
    return fates


def _audit(runtime: Runtime, actor: str, place: _Place, task: Task) -> AuditEvent:
    now_ms = runtime.clock.now_ms()
    detail = (
        f"upstream={place.upstream.name} credential={place.credential} project={place.project.id}"
    )
    event_id = runtime.ids.new("evt", now_ms)
    return AuditEvent(event_id, now_ms, actor, "task.imported", task.id, detail)
