"""The search through everything emitted finds what is there."""

from pathlib import Path

from tests.support import published
from tests.support.captured import Captured

KEY = "sg_test_" + "Ab1" * 20 + "x"


def test_a_key_is_found_wherever_it_is(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    captured.add_key(KEY)
    captured.keep("serve.stderr.log", f"key_id={KEY[8:20]}")
    captured.keep("gateway.db", KEY[:-6])

    assert list(captured.find_leaks()) == ["002-gateway.db: a key or credential"]


def test_a_prompt_and_a_query_are_found_everywhere_but_in_a_store(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    captured.keep("metrics.txt", f'{{model="{published.PROMPT}"}}')
    captured.keep("gateway.db", published.IMAGE_URL)
    captured.keep("serve.stderr.log", published.IMAGE_URL)

    assert list(captured.find_leaks()) == [
        "001-metrics.txt: 'A paper boat drifts'",
        "003-serve.stderr.log: 'harbour-7'",
    ]
