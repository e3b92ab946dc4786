"""`tasks story`: all that is on record of a task, for whoever has to explain it."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, print_table, say

if TYPE_CHECKING:
    from gateway.domain.billing import Reservation
    from gateway.domain.webhooks import Notification
    from gateway.storage.ledger import Entry
    from gateway.storage.stories import Story

JsonObject = dict[str, object]


@with_common
def story(
    common: Common,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="The task's id.")],
) -> None:
    """Tell who asked for a task, how it moved, what it cost and what proves it."""
    from gateway.services import storytelling

    found = common.run(lambda runtime: storytelling.get_story(runtime, task_id))
    gaps = storytelling.find_gaps(found)
    told = as_json(found)
    if common.is_json:
        print_json({**told, "gaps": gaps})
    else:
        _print(told)
    for gap in gaps:
        say(f"The story has a gap: {gap}.")
    if gaps:
        raise typer.Exit(1)


def as_json(found: "Story") -> JsonObject:
    """Return the story as programs read it: ids, amounts and times, nothing of a prompt."""
    from gateway.services import storytelling

    task, attempt = found.task, found.attempt
    return {
        "id": task.id,
        "project": task.project_id if found.project is None else found.project.name,
        "key_id": task.key_id,
        "model": task.model,
        "family": task.family,
        "body_hash": None if attempt is None else attempt.fingerprint,
        "has_idempotency_key": found.has_idempotency_key,
        "imported": task.is_imported,
        "state": task.state.value,
        "error": None if task.error is None else task.error.code,
        "created_at": _stamp(task.created_at_ms),
        "updated_at": _stamp(task.updated_at_ms),
        "deleted_at": None if task.deleted_at_ms is None else _stamp(task.deleted_at_ms),
        "upstream": task.route.upstream,
        "credential": task.route.credential,
        "deployment": task.route.deployment,
        "upstream_task_id": task.upstream_task_id,
        "upstream_request_id": task.upstream_request_id,
        "quote": None if found.reservation is None else _quote(found.reservation),
        "transitions": [
            {
                "version": move.version,
                "at": _stamp(move.at_ms),
                "from": None if move.from_state is None else move.from_state.value,
                "event": storytelling.tell_event(found, move),
                "to": move.to_state.value,
            }
            for move in found.transitions
        ],
        "ledger": [_entry(entry) for entry in found.entries],
        "notifications": [_notification(each) for each in found.notifications],
        "orphans": [
            {
                "upstream_task_id": orphan.upstream_task_id,
                "found_at": _stamp(orphan.found_at_ms),
                "status": orphan.status,
            }
            for orphan in found.orphans
        ],
        "audit": [
            {
                "at": _stamp(event.at_ms),
                "actor": event.actor,
                "action": event.action,
                "subject": event.subject,
                "detail": event.detail,
            }
            for event in found.audit_events
        ],
    }


def _quote(reservation: "Reservation") -> JsonObject:
    held, price = reservation.held, reservation.price
    return {
        "tokens": held.tokens,
        "seconds": held.seconds,
        "videos": held.videos,
        "tool_calls": held.tool_calls,
        "hold_micros": reservation.hold_micros,
        "currency": price.charge_currency,
        "price_version": price.version,
    }


def _entry(entry: "Entry") -> JsonObject:
    evidence = entry.evidence
    return {
        "at": _stamp(entry.at_ms),
        "kind": entry.kind.value,
        "held_micros": entry.held.micros,
        "held_tokens": entry.held.tokens,
        "held_seconds": entry.held.seconds,
        "held_videos": entry.held.videos,
        "spent_micros": entry.spent.micros,
        "spent_tokens": entry.spent.tokens,
        "spent_seconds": entry.spent.seconds,
        "spent_videos": entry.spent.videos,
        "currency": entry.currency,
        "cost_micros": entry.cost_micros,
        "cost_currency": entry.cost_currency,
        "price_version": entry.price_version,
        "estimated": entry.is_estimated,
        "evidence": None if evidence is None else evidence.kind.value,
        "evidence_detail": "" if evidence is None else evidence.detail,
    }


def _notification(notification: "Notification") -> JsonObject:
    error = notification.last_error
    return {
        "id": notification.id,
        "created_at": _stamp(notification.created_at_ms),
        "kind": notification.kind.value,
        "receiver": "erased" if notification.is_erased else _receiver(notification.url),
        "state": notification.state.value,
        "attempts": notification.attempt_count,
        "last_status": notification.last_status,
        "last_error": None if error is None else error.value,
    }


def _receiver(url: str) -> str:
    """Return scheme, host and port: what follows them may be a secret."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "?"
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def _print(told: Mapping[str, object]) -> None:
    """Print the task's fields, then a table of each list that is not empty."""
    plain = {name: value for name, value in told.items() if not isinstance(value, list | dict)}
    quote = told["quote"]
    if isinstance(quote, dict):
        plain |= {
            f"quote.{name.removesuffix('_micros')}": _amount(name, value)
            for name, value in quote.items()
        }
    print_fields(plain)
    for name, rows in told.items():
        if isinstance(rows, list) and rows:
            print(f"\n{name}")
            _print_rows(rows)


def _print_rows(rows: Sequence[Mapping[str, object]]) -> None:
    # A column that says nothing in any row is left out.
    columns = [name for name in rows[0] if any(row[name] not in {None, "", 0} for row in rows)]
    print_table(
        [name.removesuffix("_micros") for name in columns],
        [[_amount(name, row[name], is_signed=True) for name in columns] for row in rows],
    )


def _amount(name: str, value: object, *, is_signed: bool = False) -> object:
    """Return money as a decimal, and leave everything else as it is."""
    from gateway.domain.money import format_amount

    if not name.endswith("_micros") or not isinstance(value, int):
        return value
    sign = "+" if is_signed and value > 0 else ""
    return f"{sign}{format_amount(value)}"


def _stamp(at_ms: int) -> str:
    """Return `2026-11-22T08:00:00.123Z`: what moves within a second has an order."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
