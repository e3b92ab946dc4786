"""What operators do: projects and keys. Every act is audited in the transaction that makes it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain import keys as key_rules
from gateway.domain.keys import Key, KeyKind
from gateway.domain.projects import DEFAULT_PROJECT, AuditEvent, Project, is_project_name
from gateway.errors import InvalidRequest, NotFound
from gateway.observability.logging import mask
from gateway.ports import Runtime
from gateway.storage import keys, projects

_NAME_CHARS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key's record and, this once, the key itself."""

    record: Key
    project: Project
    key: str


async def create_project(runtime: Runtime, actor: str, name: str) -> Project:
    """Create a project. Raises InvalidRequest if the name is malformed or taken."""
    if not is_project_name(name):
        raise InvalidRequest(
            f"The project name {mask(name[:64])!r} is not valid: 1 to 63 characters of a-z, 0-9, -"
            " and _, beginning with a letter or digit.",
            param="name",
        )
    now_ms = runtime.clock.now_ms()
    project = Project(runtime.ids.new("proj", now_ms), name, now_ms)
    audit = _audit(runtime, actor, "project.created", project.id, name)
    if not await runtime.db.write(projects.insert, project, audit):
        raise InvalidRequest(f"The project {name} exists already.", param="name")
    return project


async def list_projects(runtime: Runtime) -> Sequence[Project]:
    return await runtime.db.read(projects.list_projects)


async def get_project(runtime: Runtime, name: str) -> Project:
    """Return the project of that name or id. Raises NotFound."""
    project = await runtime.db.read(projects.find_by_name, name)
    if project is None:
        project = await runtime.db.read(projects.find, name)
    if project is None:
        raise NotFound(f"There is no project {mask(name[:64])!r}.", param="project")
    return project


async def ensure_default_project(runtime: Runtime) -> Project:
    """Return project `default`, which exists from the first start on."""
    project = await runtime.db.read(projects.find_by_name, DEFAULT_PROJECT)
    if project is not None:
        return project
    try:
        return await create_project(runtime, "bootstrap", DEFAULT_PROJECT)
    except InvalidRequest:  # another process was first
        return await get_project(runtime, DEFAULT_PROJECT)


async def create_key(
    runtime: Runtime,
    actor: str,
    project_name: str,
    *,
    name: str = "",
    kind: KeyKind = KeyKind.LIVE,
    ttl_ms: int | None = None,
    models: Sequence[str] = (),
) -> CreatedKey:
    """Create a key that is shown this once. Raises NotFound if there is no such project."""
    project = await get_project(runtime, project_name)
    _check_models(runtime, models)
    if not name.isprintable():
        raise InvalidRequest("The name has characters that can't be printed.", param="name")
    if len(name) > _NAME_CHARS_MAX:
        raise InvalidRequest(
            f"The name has {len(name)} characters, allowed are {_NAME_CHARS_MAX}.", param="name"
        )
    key = key_rules.generate(runtime.entropy, kind=kind)
    record = _record_of(runtime, key, project, name)
    expires_at_ms = record.created_at_ms + ttl_ms if ttl_ms is not None else None
    record = replace(record, expires_at_ms=expires_at_ms, models=tuple(models))
    audit = _audit(runtime, actor, "key.created", record.id, project.name)
    await runtime.db.write(keys.insert, record, audit)
    runtime.log.info("key.created", key_id=record.id, project=project.id, actor=actor)
    return CreatedKey(record, project, key)


async def list_keys(runtime: Runtime, project_name: str | None = None) -> Sequence[Key]:
    project_id = (await get_project(runtime, project_name)).id if project_name else None
    return await runtime.db.read(keys.list_keys, project_id)


async def get_key(runtime: Runtime, key_id: str) -> Key:
    """Return a key's record by its public id. Raises NotFound."""
    record = await runtime.db.read(keys.find, key_id)
    if record is None:
        raise NotFound(f"There is no key {mask(key_id[:64])!r}.", param="key")
    return record


async def revoke_key(runtime: Runtime, actor: str, key_id: str) -> Key:
    """Revoke a key for good; a key that is revoked already stays as it was."""
    record = await get_key(runtime, key_id)
    now_ms = runtime.clock.now_ms()
    audit = _audit(runtime, actor, "key.revoked", record.id, "")
    await runtime.db.write(keys.revoke, record.id, now_ms, audit)
    runtime.key_cache.clear()
    runtime.log.info("key.revoked", key_id=record.id, project=record.project_id, actor=actor)
    return await get_key(runtime, key_id)


async def rotate_key(runtime: Runtime, actor: str, key_id: str, *, grace_ms: int) -> CreatedKey:
    """Create a successor with the same name, project and models.

    The old key ends after `grace_ms`, or when it would have ended anyway if that is sooner. The
    successor lives as long as the old one was meant to.
    """
    old = await get_key(runtime, key_id)
    now_ms = runtime.clock.now_ms()
    if not old.is_valid(now_ms):
        raise InvalidRequest(
            f"The key {old.id} is revoked or expired: create a new one.", param="key"
        )
    project = await get_project(runtime, old.project_id)
    key = key_rules.generate(runtime.entropy, kind=old.kind)
    record = replace(_record_of(runtime, key, project, old.name), models=old.models)
    ends_at_ms = now_ms + grace_ms
    if old.expires_at_ms is not None:
        ends_at_ms = min(ends_at_ms, old.expires_at_ms)
        lifetime_ms = old.expires_at_ms - old.created_at_ms
        record = replace(record, expires_at_ms=record.created_at_ms + lifetime_ms)
    events = (
        _audit(runtime, actor, "key.created", record.id, project.name),
        _audit(runtime, actor, "key.rotated", old.id, f"successor {record.id}"),
    )
    if not await runtime.db.write(keys.replace, old.id, ends_at_ms, record, events):
        raise InvalidRequest(f"The key {old.id} was revoked meanwhile.", param="key")
    runtime.key_cache.clear()
    runtime.log.info("key.created", key_id=record.id, project=project.id, actor=actor)
    return CreatedKey(record, project, key)


async def install_bootstrap_key(runtime: Runtime, key: str) -> Key:
    """Install a key given from outside for project `default`, once.

    Keys that were installed before stay. One that was revoked stays so, which is logged.

    Raises: InvalidRequest, without a character of the key in the message, if it is malformed or a
    well-known example.
    """
    flaw = key_rules.find_flaw(key)
    public_id = key_rules.parse(key)
    if flaw is not None or public_id is None:
        raise InvalidRequest(f"GATEWAY_BOOTSTRAP_KEY {flaw}.", param="bootstrap_key")
    project = await ensure_default_project(runtime)
    known = await runtime.db.read(keys.find, public_id)
    if known is None:
        record = _record_of(runtime, key, project, "bootstrap")
        audit = _audit(runtime, "bootstrap", "key.created", record.id, project.name)
        await runtime.db.write(keys.insert, record, audit)
        return record
    if not key_rules.matches(runtime.pepper, key, known.digest):
        raise InvalidRequest(
            f"GATEWAY_BOOTSTRAP_KEY has the public id {public_id} of another key.",
            param="bootstrap_key",
        )
    if not known.is_valid(runtime.clock.now_ms()):
        runtime.log.warning("key.bootstrap_ended", key_id=public_id, project=known.project_id)
    return known


def _record_of(runtime: Runtime, key: str, project: Project, name: str) -> Key:
    public_id = key_rules.parse(key)
    assert public_id is not None  # noqa: S101 - callers give a key of ours
    assert runtime.pepper  # noqa: S101 - who makes keys opened the runtime with it
    return Key(
        id=public_id,
        project_id=project.id,
        name=name,
        kind=key_rules.kind_of(key),
        digest=key_rules.digest(runtime.pepper, key),
        created_at_ms=runtime.clock.now_ms(),
    )


def _check_models(runtime: Runtime, models: Sequence[str]) -> None:
    for model in models:
        if runtime.catalog.find(model) is None:
            raise InvalidRequest(
                f"The model {mask(model[:64])!r} is not configured in this gateway.", param="models"
            )


def _audit(runtime: Runtime, actor: str, action: str, subject: str, detail: str) -> AuditEvent:
    now_ms = runtime.clock.now_ms()
    return AuditEvent(runtime.ids.new("evt", now_ms), now_ms, actor, action, subject, detail)
