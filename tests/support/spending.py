"""What is held and spent, as a client of the gateway sees it and as the ledger has it."""

from collections.abc import Mapping, Sequence
from typing import Final

import httpx

from gateway.domain.billing import EntryKind
from gateway.domain.keys import parse
from gateway.domain.limits import Account, LimitSetting, Metric, Scope, Window
from gateway.domain.tasks import Observation
from gateway.ports import Runtime
from gateway.services import admin, limiting
from gateway.services.observing import observe_due
from gateway.storage import ledger
from gateway.storage.ledger import Entry
from tests.support.clock import FakeClock
from tests.support.fake_upstream import FakeUpstream
from tests.support.gateway_client import Keys

HOLD: Final = 735_075
"""What is held for `BODY`: 49,005 tokens at 15 CNY a million."""
TOKENS: Final = 20_000
CHARGE: Final = TOKENS * 15
"""What such a task is charged that has used `TOKENS`."""
ROOMY: Final[Mapping[Metric, int]] = {
    Metric.MONEY: 10**12,
    Metric.VIDEOS: 1000,
    Metric.SECONDS: 10_000,
    Metric.TOKENS: 10**9,
    Metric.TASKS: 100,
}
"""Caps that nothing here comes near to."""


def succeeded(tokens: object = TOKENS, **fields: object) -> Observation:
    return Observation("succeeded", {"usage": {"completion_tokens": tokens}, **fields})


async def look(runtime: Runtime, upstream: FakeUpstream, clock: FakeClock, after_s: float) -> None:
    """Let time pass, and the observer look at what is due."""
    clock.advance(after_s)
    await observe_due(runtime, upstream, "default")


async def entries_of(runtime: Runtime, task_id: str) -> Sequence[Entry]:
    return await runtime.db.read(ledger.list_entries, task_id)


async def kinds_of(runtime: Runtime, task_id: str) -> list[EntryKind]:
    return [entry.kind for entry in await entries_of(runtime, task_id)]


async def find_accounts(runtime: Runtime, keys: Keys) -> Sequence[Account]:
    """Return the organization, the project and the key that `keys.owner` is charged to."""
    project = await admin.get_project(runtime, "default")
    key_id = parse(keys.owner)
    assert key_id is not None
    return (
        Account(Scope.ORGANIZATION, ""),
        Account(Scope.PROJECT, project.id),
        Account(Scope.KEY, key_id),
    )


async def set_limits(
    runtime: Runtime, accounts: Sequence[Account], caps: Mapping[Metric, int]
) -> None:
    """Set each cap for each of the accounts, budgets for ever."""
    for account in accounts:
        for metric, cap in caps.items():
            window = None if metric is Metric.TASKS else Window.EVER
            setting = LimitSetting(account, metric, window, cap)
            await limiting.set_limit(runtime, "test", setting)


async def used_of(client: httpx.AsyncClient) -> list[tuple[int, int]]:
    """Return (spent, held) of every limit that binds the client's key, as it is told them."""
    limits = (await client.get("/seedance/limits")).json()["limits"]
    return [(each["spent"], each["held"]) for each in limits]
