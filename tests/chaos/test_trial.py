"""The operator's trial, as its command carries it out."""

from pathlib import Path

import pytest

from tests.chaos.trial import Options, run_trial

SEED = 20261128


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_on_a_bad_day_report_ledger_and_upstream_agree(tmp_path: Path) -> None:
    day = Options(seconds=120.0, concurrent=50, kill_every_s=4.0, seed=SEED, folder=tmp_path)

    assert await run_trial(day) == []
