"""`limits`: what the organization, a project or a key may use. Works beside a running server."""

# ruff: noqa: PLC0415
# What a command needs is loaded inside it, see gateway.cli.main.

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.durations import rfc3339_or_none
from gateway.cli.options import Common, with_common
from gateway.cli.output import print_fields, print_json, print_table

if TYPE_CHECKING:
    from gateway.domain.limits import Account, LimitSetting, Metric, Window
    from gateway.ports import Runtime
    from gateway.services.limiting import LimitUse

_NO_CAP: Final = "none"

Organization = Annotated[bool, typer.Option("--org", help="The whole deployment.")]
Project = Annotated[str | None, typer.Option(help="This project.")]
Key = Annotated[str | None, typer.Option(help="This key, by its public id.")]


def build() -> typer.Typer:
    app = typer.Typer(name="limits", help="Set and show limits and budgets.", no_args_is_help=True)
    app.command("set")(set_)
    app.command("show")(show)
    return app


@with_common
def set_(
    common: Common,
    *,
    metric: Annotated[
        str, typer.Option(help="money, videos, seconds, tokens; tasks (in progress), rpm.")
    ],
    cap: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="How much; money as a decimal of the currency. `none` lifts the limit, also one "
            "of the configuration.",
        ),
    ],
    org: Organization = False,
    project: Project = None,
    key: Key = None,
    window: Annotated[
        str | None, typer.Option(help="day, month or ever; tasks and rpm take none.")
    ] = None,
) -> None:
    """Set a limit in place of an earlier one. What its window already used counts."""
    from gateway.domain.limits import LimitSetting, format_cap
    from gateway.services import limiting

    metric_, window_, cap_ = _read_limit(metric, window, cap)
    _check_scope(org=org, project=project, key=key, is_required=True)

    async def act(runtime: "Runtime") -> "LimitSetting":
        account = await _find_account(runtime, project, key)
        setting = LimitSetting(account, metric_, window_, cap_)
        await limiting.set_limit(runtime, common.actor, setting)
        return setting

    setting = common.run(act)
    shown = {
        "scope": setting.account.scope.value,
        "id": setting.account.id or None,
        "metric": setting.metric.value,
        "window": setting.window.value if setting.window is not None else None,
        "cap": None if setting.cap is None else format_cap(setting.metric, setting.cap),
    }
    if common.is_json:
        print_json(shown)
    else:
        print_fields(shown)


@with_common
def show(
    common: Common, *, org: Organization = False, project: Project = None, key: Key = None
) -> None:
    """Show limits with what of them is used: of one account, or all that exist.

    What is left of a rate is known to the server alone: `GET /seedance/limits` tells it to the key.
    """
    from gateway.services import bookkeeping, limiting

    _check_scope(org=org, project=project, key=key, is_required=False)

    async def act(runtime: "Runtime") -> list["LimitUse"]:
        runtime = await bookkeeping.follow_terms(runtime)
        if org or project is not None or key is not None:
            return list(
                await limiting.list_use(runtime, await _find_account(runtime, project, key))
            )
        return list(await limiting.list_all_use(runtime))

    rows = [_row(each) for each in common.run(act)]
    if common.is_json:
        print_json(rows)
    else:
        columns = ["scope", "id", "metric", "window", "cap", "spent", "held", "left", "resets_at"]
        print_table(columns, [[row[column] for column in columns] for row in rows])


def _read_limit(
    metric: str, window: str | None, cap: str
) -> tuple["Metric", "Window | None", int | None]:
    from gateway.domain.limits import Metric, Window, check_window, parse_cap

    _check_word("metric", metric, [each.value for each in Metric])
    if window is not None:
        _check_word("window", window, [each.value for each in Window])
    metric_, window_ = Metric(metric), Window(window) if window is not None else None
    try:
        check_window(metric_, window_)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window") from None
    try:
        return metric_, window_, None if cap == _NO_CAP else parse_cap(metric_, cap)
    except ValueError as error:
        raise typer.BadParameter(f"{error}, or {_NO_CAP}", param_hint="--cap") from None


def _check_word(name: str, word: str, allowed: Sequence[str]) -> None:
    if word not in allowed:
        message = f"must be one of {', '.join(allowed)}"
        raise typer.BadParameter(message, param_hint=f"--{name}")


def _check_scope(*, org: bool, project: str | None, key: str | None, is_required: bool) -> None:
    given_count = org + (project is not None) + (key is not None)
    if given_count > 1 or (is_required and given_count == 0):
        raise typer.BadParameter("give one of --org, --project and --key")


async def _find_account(runtime: "Runtime", project: str | None, key: str | None) -> "Account":
    """Return the account that is named. Raises NotFound."""
    from gateway.domain.limits import ORGANIZATION_ID, Account, Scope
    from gateway.services import admin

    if project is not None:
        return Account(Scope.PROJECT, (await admin.get_project(runtime, project)).id)
    if key is not None:
        return Account(Scope.KEY, (await admin.get_key(runtime, key)).id)
    return Account(Scope.ORGANIZATION, ORGANIZATION_ID)


def _row(used: "LimitUse") -> dict[str, object]:
    from gateway.domain.limits import Metric, format_cap

    limit = used.limit
    is_rate = limit.metric is Metric.RPM
    return {
        "scope": limit.account.scope.value,
        "id": limit.account.id or None,
        "metric": limit.metric.value,
        "window": limit.window.value if limit.window is not None else None,
        "cap": format_cap(limit.metric, limit.cap),
        "spent": None if is_rate else format_cap(limit.metric, used.spent),
        "held": None if is_rate else format_cap(limit.metric, used.held),
        "left": None if is_rate else format_cap(limit.metric, used.left),
        "resets_at": rfc3339_or_none(used.resets_at_ms),
    }
