"""The search through everything emitted finds what is there."""

import base64
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support import published
from tests.support.captured import PROMPT_MARK, Captured

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


@pytest.mark.parametrize("secret", ["Zq7Xv3Kd9Wb5Rt2c", "Zq7Xv3Kd9Wb5Rt2cQ", "Zq7Xv3Kd9Wb5Rt2cQ8"])
@pytest.mark.parametrize("before", ["", "u", "us", "use"])
@pytest.mark.parametrize("after", ["", "r", "rs"])
def test_a_secret_is_found_in_every_form(
    tmp_path: Path, secret: str, before: str, after: str
) -> None:
    captured = Captured(tmp_path)
    captured.add_secret(secret)
    text = f"{before}{secret}{after}"
    forms = (
        text,
        text[::-1],
        text.encode().hex(),
        text.encode().hex().upper(),
        base64.b64encode(text.encode()).decode(),
        base64.urlsafe_b64encode(text.encode()).decode(),
    )
    for form in forms:
        captured.keep("log", f'{{"value":"{form}"}}')
    captured.keep("log", f'{{"value":"{secret[:-1]}"}}')

    assert len(list(captured.find_leaks())) == len(forms)


def test_a_prompt_is_found_in_every_form(tmp_path: Path) -> None:
    captured = Captured(tmp_path)
    captured.keep("log", quote(PROMPT_MARK))
    captured.keep("log", PROMPT_MARK.replace(" ", "+"))
    captured.keep("log", base64.b64encode(f"prompt: {PROMPT_MARK}.".encode()).decode())
    captured.keep("log", PROMPT_MARK.encode().hex())

    assert len(list(captured.find_leaks())) == 4
