"""`keys`: the secrets that clients present. A key is shown once, when it is made."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import rfc3339, rfc3339_or_none
from gateway.cli.options import Common, duration_option, with_common
from gateway.cli.output import print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from gateway.domain.keys import Key
    from gateway.ports import Runtime
    from gateway.services.admin import CreatedKey


def _public_id(text: str) -> str:
    """Take the public id out of a whole key, so that nothing repeats the rest of it."""
    from gateway.domain import keys as key_rules

    return key_rules.parse(text.strip()) or text


KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's public id.", parser=_public_id)]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A key's record as it is at a moment, with its project's name."""

    record: "Key"
    project: str
    now_ms: int

    def fields(self) -> dict[str, object]:
        record = self.record
        return {
            "id": record.id,
            "project": self.project,
            "name": record.name,
            "status": _status(record, self.now_ms),
            "created_at": rfc3339(record.created_at_ms),
            "expires_at": rfc3339_or_none(record.expires_at_ms),
            "revoked_at": rfc3339_or_none(record.revoked_at_ms),
            "models": list(record.models),
        }


def build() -> typer.Typer:
    app = typer.Typer(name="keys", help="Make, list and end API keys.", no_args_is_help=True)
    app.command("create")(create)
    app.command("list")(list_)
    app.command("show")(show)
    app.command("revoke")(revoke)
    app.command("rotate")(rotate)
    app.command("generate")(generate)
    return app


@with_common
def create(
    common: Common,
    project: Annotated[str, typer.Option(help="The project that the key belongs to.")] = "default",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    ttl: Annotated[int | None, duration_option("Lifetime; without it, for good.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that the key may use; several are allowed.")
    ] = None,
    *,
    test: Annotated[bool, typer.Option("--test", help="Make it begin with sg_test_.")] = False,
) -> None:
    """Make a key and show it, this once."""
    from gateway.domain.keys import KeyKind
    from gateway.domain.projects import DEFAULT_PROJECT
    from gateway.services import admin

    async def act(runtime: "Runtime") -> "CreatedKey":
        if project == DEFAULT_PROJECT:
            await admin.ensure_default_project(runtime)
        return await admin.create_key(
            runtime,
            common.actor,
            project,
            name=name,
            kind=KeyKind.TEST if test else KeyKind.LIVE,
            ttl_ms=ttl,
            models=tuple(model or ()),
        )

    _print_created(common, common.run(act, creates=True, checks_keys=True), {})


@with_common
def list_(
    common: Common,
    project: Annotated[str | None, typer.Option(help="Only this project's keys.")] = None,
) -> None:
    """List the keys, valid or not, without their secrets."""
    from gateway.services import admin

    async def act(runtime: "Runtime") -> list[_Shown]:
        names = {each.id: each.name for each in await admin.list_projects(runtime)}
        now_ms = runtime.clock.now_ms()
        records = await admin.list_keys(runtime, project)
        return [_Shown(record, names[record.project_id], now_ms) for record in records]

    rows = [shown.fields() for shown in common.run(act)]
    if common.is_json:
        print_json(rows)
    else:
        columns = ["id", "project", "name", "status", "created_at", "expires_at"]
        print_table(columns, [[row[column] for column in columns] for row in rows])


@with_common
def show(common: Common, key_id: KeyId) -> None:
    """Show what is known of a key."""
    from gateway.services import admin

    async def act(runtime: "Runtime") -> _Shown:
        return await _shown(runtime, await admin.get_key(runtime, key_id))

    _print_shown(common, common.run(act))


@with_common
def revoke(common: Common, key_id: KeyId) -> None:
    """End a key for good, within a second also at a running server."""
    from gateway.services import admin

    async def act(runtime: "Runtime") -> _Shown:
        return await _shown(runtime, await admin.revoke_key(runtime, common.actor, key_id))

    _print_shown(common, common.run(act))


@with_common
def rotate(
    common: Common,
    key_id: KeyId,
    grace: Annotated[int, duration_option("How long the old key goes on working.")],
) -> None:
    """Make a key's successor and show it, this once; the old key ends after the grace."""
    from gateway.services import admin

    created = common.run(
        lambda runtime: admin.rotate_key(runtime, common.actor, key_id, grace_ms=grace),
        checks_keys=True,
    )
    _print_created(common, created, {"replaces": key_id})


@with_common
def generate(
    common: Common,
    *,
    test: Annotated[bool, typer.Option("--test", help="Make it begin with sg_test_.")] = False,
) -> None:
    """Print a key to be installed as GATEWAY_BOOTSTRAP_KEY; nothing is stored."""
    from gateway.domain import keys as key_rules

    kind = key_rules.KeyKind.TEST if test else key_rules.KeyKind.LIVE
    key = key_rules.generate(secrets.token_bytes, kind=kind)
    if common.is_json:
        print_json({"id": key_rules.parse(key), "key": key})
    else:
        print(key)


async def _shown(runtime: "Runtime", record: "Key") -> _Shown:
    from gateway.services import admin

    project = await admin.get_project(runtime, record.project_id)
    return _Shown(record, project.name, runtime.clock.now_ms())


def _print_created(common: Common, created: "CreatedKey", more: Mapping[str, object]) -> None:
    fields = {
        "id": created.record.id,
        "key": created.key,
        "project": created.project.name,
        "expires_at": rfc3339_or_none(created.record.expires_at_ms),
        **more,
    }
    if common.is_json:
        print_json(fields)
    else:
        print_fields(fields)
        say("The key is shown this once: only its digest is stored.")


def _print_shown(common: Common, shown: _Shown) -> None:
    fields = shown.fields()
    if common.is_json:
        print_json(fields)
    else:
        print_fields({**fields, "models": ", ".join(shown.record.models) or "all"})


def _status(record: "Key", now_ms: int) -> str:
    if record.revoked_at_ms is not None and record.revoked_at_ms <= now_ms:
        return "revoked"
    return "valid" if record.is_valid(now_ms) else "expired"
