"""One store's books are in one currency and one time zone, and hold no trial beside real money."""

from dataclasses import replace

import pytest

from gateway.config import Config
from gateway.domain.keys import Principal
from gateway.errors import ConfigurationError
from gateway.ports import Runtime
from gateway.services import bookkeeping
from gateway.services.diagnosing import Level, check_books
from gateway.services.submission import submit_task
from tests.racing.race import a_body


def configured(runtime: Runtime, **finance: str) -> Runtime:
    """Return the runtime as another configuration of `finance` makes it."""
    config = runtime.config.model_copy(
        update={"finance": runtime.config.finance.model_copy(update=finance)}
    )
    currency = finance.get("currency", runtime.prices.currency)
    return replace(runtime, config=config, prices=replace(runtime.prices, currency=currency))


@pytest.fixture
async def kept(runtime: Runtime, principal: Principal) -> Runtime:
    """Books of a live gateway, in CNY and UTC, with a task."""
    await bookkeeping.settle_terms(runtime, is_trial=False)
    await submit_task(runtime, principal, a_body("first"), "req")
    return runtime


async def test_books_go_on_as_they_were_begun(kept: Runtime) -> None:
    await bookkeeping.settle_terms(kept, is_trial=False)

    assert await bookkeeping.find_conflict(kept, is_trial=False) is None


@pytest.mark.parametrize(
    ("finance", "words"),
    [
        ({"currency": "USD"}, "finance.currency is USD, but the budgets and the ledger"),
        ({"timezone": "Asia/Singapore"}, "finance.timezone is Asia/Singapore, but the days"),
    ],
)
async def test_books_that_hold_a_task_are_kept_in_nothing_else(
    kept: Runtime, finance: dict[str, str], words: str
) -> None:
    other = configured(kept, **finance)

    with pytest.raises(ConfigurationError, match=words) as refused:
        await bookkeeping.settle_terms(other, is_trial=False)

    assert str(refused.value) == await bookkeeping.find_conflict(other, is_trial=False)
    await bookkeeping.settle_terms(kept, is_trial=False)


async def test_a_trial_is_not_added_to_real_money(kept: Runtime) -> None:
    with pytest.raises(ConfigurationError, match="hold real tasks, and those of a sandbox"):
        await bookkeeping.settle_terms(kept, is_trial=True)


async def test_real_money_is_not_added_to_a_trial(runtime: Runtime, principal: Principal) -> None:
    await bookkeeping.settle_terms(runtime, is_trial=True)
    await submit_task(runtime, principal, a_body("tried"), "req")

    with pytest.raises(ConfigurationError, match="hold a sandbox trial, and real ones"):
        await bookkeeping.settle_terms(runtime, is_trial=False)


async def test_the_doctor_tells_of_it_before_a_start_does(kept: Runtime) -> None:
    live, trial, unknown = [
        await check_books(kept, is_trial=is_trial) for is_trial in (False, True, None)
    ]
    moved = await check_books(configured(kept, timezone="Asia/Singapore"), is_trial=None)

    assert (live.level, trial.level, unknown.level) == (Level.OK, Level.FAIL, Level.OK)
    assert "those of a sandbox" in trial.message
    assert "finance.timezone is Asia/Singapore" in moved.message


async def test_books_without_a_task_may_be_begun_anew(runtime: Runtime) -> None:
    await bookkeeping.settle_terms(runtime, is_trial=True)
    other = configured(runtime, currency="USD", timezone="Asia/Singapore")

    assert await bookkeeping.find_conflict(other, is_trial=False) is None
    await bookkeeping.settle_terms(other, is_trial=False)


async def test_books_of_an_older_release_go_on_as_configured(
    runtime: Runtime, principal: Principal
) -> None:
    await submit_task(runtime, principal, a_body("older"), "req")

    await bookkeeping.settle_terms(configured(runtime, timezone="Asia/Shanghai"), is_trial=False)

    with pytest.raises(ConfigurationError, match="those of Asia/Shanghai"):
        await bookkeeping.settle_terms(runtime, is_trial=False)


async def test_commands_follow_the_days_of_the_books(kept: Runtime, config: Config) -> None:
    other = configured(kept, timezone="Asia/Singapore")

    followed = await bookkeeping.follow_terms(other)

    assert config.finance.timezone == "UTC"
    assert followed.config.finance.timezone == "UTC"
