"""`webhooks`: what other servers are told. Works beside a running server."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.durations import rfc3339, rfc3339_or_none
from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from gateway.domain.webhooks import Notification, NotificationKind

Kind = Annotated[str | None, typer.Option(help="Of one kind alone: callback or usage.")]


def build() -> typer.Typer:
    app = typer.Typer(
        name="webhooks",
        help="List callbacks and usage events, have them delivered again, show the secret.",
        no_args_is_help=True,
    )
    app.command("list")(list_)
    app.command("redeliver")(redeliver)
    app.command("secret")(secret)
    return app


@with_common
def list_(
    common: Common,
    *,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead alone.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="Of this task alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
) -> None:
    """List what is to be delivered, what was, and what was given up, the newest first."""
    from gateway.domain.webhooks import NotificationState
    from gateway.services import notifying

    _check_word("state", state, [each.value for each in NotificationState])
    chosen = NotificationState(state) if state is not None else None
    found = common.run(
        lambda runtime: notifying.list_notifications(runtime, limit, state=chosen, task_id=task),
        checks_keys=False,
    )
    rows = [_row(each) for each in found]
    if common.is_json:
        print_json(rows)
        return
    columns = ["id", "kind", "state", "attempts", "last_status", "last_error", "next_attempt_at"]
    print_table([*columns, "url"], [[row[name] for name in (*columns, "url")] for row in rows])


@with_common
def redeliver(
    common: Common,
    notification_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The notification's id.")
    ] = None,
    *,
    all_dead: Annotated[
        bool, typer.Option("--all-dead", help="All that were given up, instead of one.")
    ] = False,
    kind: Kind = None,
) -> None:
    """Have a notification delivered once more, under its id, whatever became of it before."""
    from gateway.domain.webhooks import NotificationKind
    from gateway.services import notifying

    if (notification_id is None) != all_dead:
        raise typer.BadParameter("give an id, or --all-dead")
    if kind is not None and not all_dead:
        raise typer.BadParameter("--kind goes with --all-dead")
    if notification_id is not None:
        wanted = notification_id
        renewed = common.run(
            lambda runtime: notifying.redeliver_one(runtime, common.actor, wanted),
            checks_keys=False,
        )
        if common.is_json:
            print_json(_row(renewed))
        else:
            print_fields(_row(renewed))
        return
    _check_word("kind", kind, [each.value for each in NotificationKind])
    count = _redeliver_dead(common, NotificationKind(kind) if kind is not None else None)
    if common.is_json:
        print_json({"redelivered": count})
    else:
        print(f"{count} to be delivered again")


@with_common
def secret(
    common: Common,
    *,
    show: Annotated[
        bool, typer.Option("--show", help="Print the secrets themselves, for receivers.")
    ] = False,
) -> None:
    """Tell where the secrets come from that sign deliveries, and what they are if asked for."""
    from gateway.runtime import read_pepper, webhook_secrets

    config = common.load()
    pepper = b""
    source = "webhooks.secrets"
    if not config.webhooks.secrets:
        source = "derived from the pepper"
        pepper = read_pepper(config) or b""
        if not pepper:
            typer.echo("There is no pepper yet: the first start of a server makes it.", err=True)
            raise typer.Exit(1)
    secrets = [each.get_secret_value() for each in webhook_secrets(config, pepper)]
    shown = {"source": source, "count": len(secrets), **({"secrets": secrets} if show else {})}
    if common.is_json:
        print_json(shown)
    elif show:
        for each in secrets:
            print(each)
    else:
        print_fields(shown)


def _redeliver_dead(common: Common, kind: "NotificationKind | None") -> int:
    from gateway.services import notifying

    return common.run(
        lambda runtime: notifying.redeliver_dead(runtime, common.actor, kind), checks_keys=False
    )


def _row(notification: "Notification") -> dict[str, object]:
    next_at_ms = notification.next_attempt_at_ms
    if next_at_ms is not None:  # at once, it says of a new one
        next_at_ms = max(next_at_ms, notification.created_at_ms)
    error = notification.last_error
    return {
        "id": notification.id,
        "task_id": notification.task_id,
        "kind": notification.kind.value,
        "state": notification.state.value,
        "url": "erased" if notification.is_erased else _plain(notification.url),
        "attempts": notification.attempt_count,
        "last_status": notification.last_status,
        "last_error": error.value if error is not None else None,
        "created_at": rfc3339(notification.created_at_ms),
        "next_attempt_at": rfc3339_or_none(next_at_ms),
        "ended_at": rfc3339_or_none(notification.ended_at_ms),
    }


def _plain(url: str) -> str:
    """Return the address without what may be secret in it: user, query, fragment."""
    from urllib.parse import urlsplit, urlunsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return "?"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _check_word(name: str, word: str | None, words: Sequence[str]) -> None:
    if word is not None and word not in words:
        raise typer.BadParameter(f"the {name} must be one of {', '.join(words)}")
