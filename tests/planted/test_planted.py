"""The planted bugs: that each can still be planted, and, in the long suite, that each is caught."""

import pytest

from tests.planted.__main__ import main
from tests.planted.bug import Bug
from tests.planted.bugs import BUGS
from tests.support.gateway import REPOSITORY
from tests.support.named_tests import find_missing


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_the_bug_can_be_planted(bug: Bug) -> None:
    planted = bug.plant((REPOSITORY / bug.file).read_text())

    compile(planted, bug.file, "exec")


def test_every_bug_has_a_name_of_its_own_and_tests_that_exist() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 15
    for bug in BUGS:
        assert bug.tests
        assert find_missing(bug.tests) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_bug_is_caught() -> None:
    assert main([]) == 0
