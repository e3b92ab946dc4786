"""`backup` and `restore`: copies of the SQLite database. PostgreSQL brings its own tools."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.durations import rfc3339
from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, say
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.domain.projects import AuditEvent

BACKUPS_FOLDER: Final = "backups"
_LOCK_FILE: Final = "serve.lock"  # which every server on SQLite holds
_REPEATS: Final = (
    "An Idempotency-Key that was first used after the backup is new again: a client that repeats "
    "such a request pays for a second task."
)


@with_common
def backup(
    common: Common,
    *,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to; a folder gets a new file. By default one in DIR/backups.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
) -> None:
    """Copy the database, beside a running server, too. The pepper is not in the copy."""
    from gateway.clock import SystemClock
    from gateway.journal import has_pending
    from gateway.runtime import DATABASE_FILE
    from gateway.storage.backup import back_up

    config = common.load()
    if config.storage.url is not None:
        raise ConfigurationError(
            "The database is PostgreSQL: back it up by `pg_dump --format=custom`, or as your "
            "provider does."
        )
    database = config.data_dir / DATABASE_FILE
    if not database.exists():
        raise ConfigurationError(f"There is no gateway data in {config.data_dir}.")
    now_ms = SystemClock().now_ms()
    target = _choose_target(config, to, f"gateway-{_stamp(now_ms)}.db")
    if target.exists() and not target.is_file():
        raise ConfigurationError(f"{target} is no regular file: nothing replaces it.")
    if target.exists() and not force:
        raise ConfigurationError(f"{target} is there already; --force replaces it.")
    made = back_up(database, target, lock_timeout_s=config.storage.lock_timeout_s, replaces=force)
    _print(
        common,
        {
            "path": str(made.path),
            "bytes": made.size_bytes,
            "revision": made.revision,
            "created_at": rfc3339(now_ms),
        },
    )
    say(_remind_of_pepper(config))
    if has_pending(config.data_dir):
        say(
            "Outcomes wait in outcomes.journal for the database to take them; they are not in the "
            "backup."
        )


@with_common
def restore(
    common: Common,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="What `backup` made.")
    ] = None,
    *,
    mark: Annotated[
        bool,
        typer.Option(
            "--mark",
            help="Without FILE: note that the database was restored by other means, as by "
            "pg_restore or from a snapshot of its volume.",
        ),
    ] = False,
    open_: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Without FILE: take submits again though the upstream's lists could not be "
            "compared, as when it is gone for good. What the restore lost is then not looked for.",
        ),
    ] = False,
) -> None:
    """Put a backup in the database's place, while no server runs; what was there is kept."""
    if (file is not None) + mark + open_ != 1:
        raise typer.BadParameter("give one of FILE, --mark and --open")
    if mark:
        _mark(common)
    elif open_:
        _open(common)
    elif file is not None:
        _restore(common, file)


def _restore(common: Common, file: Path) -> None:
    from gateway.runtime import DATABASE_FILE, PEPPER_FILE, make_private_folder
    from gateway.storage.backup import restore as put_back

    config = common.load()
    if config.storage.url is not None:
        raise ConfigurationError(
            "The database is PostgreSQL: stop every server, restore it by `pg_restore`, then run "
            "`restore --mark`, so that submits wait until the upstream's lists were compared."
        )
    if not file.is_file():
        raise ConfigurationError(f"There is no file {file}.")
    make_private_folder(config.data_dir)
    database = config.data_dir / DATABASE_FILE
    if database.exists() and file.samefile(database):
        raise ConfigurationError(f"{file} is the database itself.")
    event = _new_event(common.actor, str(file.name))
    with _no_server(config):
        restored = put_back(
            file,
            database,
            event,
            stamp=_stamp(event.at_ms),
            lock_timeout_s=config.storage.lock_timeout_s,
        )
    _print(
        common,
        {
            "path": str(database),
            "revision": restored.revision,
            "kept": str(restored.kept) if restored.kept is not None else None,
            "restored_at": rfc3339(event.at_ms),
        },
    )
    say(
        "The next server compares the upstreams' lists of the last 7 days with the database before "
        f"it takes new submits. Keys and limits are those of the backup. {_REPEATS}"
    )
    pepper = config.data_dir / PEPPER_FILE
    if config.auth.pepper is None and not pepper.exists():
        say(
            f"There is no {pepper}, and no key of the backup works without the pepper that it was "
            "made with: put its copy there, or set auth.pepper, before the next server starts."
        )


def _mark(common: Common) -> None:
    from gateway.storage.backup import mark_restored

    event = _new_event(common.actor, "")
    common.run(lambda runtime: runtime.db.write(mark_restored, event))
    _print(common, {"restored_at": rfc3339(event.at_ms)})
    say(f"Restart every server: it looks for the mark when it starts. {_REPEATS}")


def _open(common: Common) -> None:
    from gateway.services import restoring

    if not common.run(lambda runtime: restoring.open_restored(runtime, common.actor)):
        say("Nothing was to be done: no server waits for a comparison.")
        raise typer.Exit(1)
    say("Every server takes submits again within seconds. Tasks that were lost may be billed.")


def _choose_target(config: "Config", to: Path | None, name: str) -> Path:
    """Return the file to write. Raises ConfigurationError for a place where none should be."""
    from gateway.runtime import make_private_folder

    folder = config.data_dir / BACKUPS_FOLDER
    if to is None:
        make_private_folder(folder)
        to = folder
    target = (to / name if to.is_dir() else to).absolute()
    if not target.parent.is_dir():
        raise ConfigurationError(f"There is no folder {target.parent}.")
    if target.parent.samefile(config.data_dir):
        raise ConfigurationError(
            f"{target.parent} is the data folder: its files are the gateway's. Name another folder."
        )
    return target


def _remind_of_pepper(config: "Config") -> str:
    from gateway.runtime import PEPPER_FILE

    where = (
        f"keep a copy of {config.data_dir / PEPPER_FILE}"
        if config.auth.pepper is None
        else "keep auth.pepper"
    )
    return f"The pepper is not in the backup: {where} apart from it. No key works without it."


def _new_event(actor: str, subject: str) -> "AuditEvent":
    from gateway.clock import SystemClock
    from gateway.domain.projects import AuditEvent
    from gateway.ids import IdMaker

    now_ms = SystemClock().now_ms()
    event_id = IdMaker(secrets.token_bytes).new("evt", now_ms)
    return AuditEvent(event_id, now_ms, actor, "database.restored", subject)


@contextmanager
def _no_server(config: "Config") -> Iterator[None]:
    """Hold the data folder as a server would, so that none runs or starts on it."""
    with (config.data_dir / _LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                f"A server runs on {config.data_dir}: stop it before its database is replaced."
            ) from error
        yield


def _stamp(at_ms: int) -> str:
    """Return `20261122T080000Z`."""
    return rfc3339(at_ms).replace("-", "").replace(":", "")


def _print(common: Common, fields: dict[str, object]) -> None:
    if common.is_json:
        print_json(fields)
    else:
        print_fields(fields)
