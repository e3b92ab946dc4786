"""docs/promises.md: every promise is there, and everything that it names."""

import re
from typing import Final

import pytest

from tests.support.gateway import REPOSITORY
from tests.support.named_tests import find_missing

PAGE: Final = (REPOSITORY / "docs" / "promises.md").read_text()
PROMISES: Final = (*range(1, 12), 15, 17, 18, 20, 25, 26)
TEST: Final = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")
MODULE: Final = re.compile(r"`(gateway/[\w/]+\.py)`")
ELSEWHERE: Final = PAGE[PAGE.index("## What went wrong elsewhere") :]
SECTIONS: Final = {
    int(match[1]): match[2]
    for match in re.finditer(r"^## P(\d+)\. .+\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE)
}


def test_every_promise_is_there() -> None:
    assert tuple(SECTIONS) == PROMISES


@pytest.mark.parametrize("number", PROMISES)
def test_a_promise_says_how_what_is_left_and_which_tests_prove_it(number: int) -> None:
    section = SECTIONS[number]

    for part in ("- **How:** ", "- **What is left:** ", "- **Tests:**\n"):
        assert section.count(part) == 1
    assert MODULE.search(section)
    assert TEST.search(section)


def test_every_test_that_is_named_exists() -> None:
    names = TEST.findall(PAGE)

    assert find_missing(names) == []
    assert PAGE.count(".py::") == len(names), "a name is not written as path::function"


def test_every_module_that_is_named_exists() -> None:
    missing = [path for path in MODULE.findall(PAGE) if not (REPOSITORY / path).is_file()]

    assert missing == []


def test_every_failure_elsewhere_has_its_place_and_its_test() -> None:
    rows = [line for line in ELSEWHERE.splitlines() if line.startswith("| ")][1:]

    assert len(rows) >= 30
    for row in rows:
        _, what, where, tests, _ = row.split("|")
        assert what.strip()
        assert re.search(r"\d|\(code\)", where), row
        assert TEST.search(tests), row


def test_every_named_failure_is_in_the_table() -> None:
    """Each test that is named after a failure elsewhere says there whose it was."""
    named = set(TEST.findall(PAGE))
    for name in ("failures", "submits"):
        path = f"tests/integration/http/test_rivals_{name}.py"
        source = (REPOSITORY / path).read_text()
        found = {
            f"{path}::{each}" for each in re.findall(r"^async def (test_\w+)", source, re.MULTILINE)
        }
        assert found - named == set()
