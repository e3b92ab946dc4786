"""Under which name commands act."""

import os
import pwd
import subprocess
import sys

import pytest
import typer

from gateway.cli.actors import NAME_CHARS_MAX, find_actor, parse_actor

ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_name_that_is_given_goes_before_the_systems_user() -> None:
    assert find_actor("jo", {"SUDO_USER": "kim"}) == "cli:jo"


def test_without_a_name_it_is_the_systems_user() -> None:
    assert find_actor(None, {"USER": "somebody", "LOGNAME": "somebody"}) == f"cli:{ME}"


def test_of_sudo_it_is_who_called_it() -> None:
    assert find_actor(None, {"SUDO_USER": "kim"}) == "cli:kim"


@pytest.mark.parametrize("caller", ["", "a b", "a\nb", "\x1b[2J", "x" * (NAME_CHARS_MAX + 1)])
def test_a_caller_that_is_no_name_is_passed_over(caller: str) -> None:
    assert find_actor(None, {"SUDO_USER": caller}) == f"cli:{ME}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root runs a program as another user")
def test_a_user_without_a_name_has_a_number() -> None:
    # What is loaded first need not be readable for another user.
    program = (
        "import os; from gateway.cli.actors import find_actor; os.setuid(54321); "
        "print(find_actor(None, {}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.stdout == "cli:uid-54321\n", done.stderr


@pytest.mark.parametrize("name", ["jo", "jo@example.com", "Жо", "x" * NAME_CHARS_MAX])
def test_printable_names_are_taken(name: str) -> None:
    assert parse_actor(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "jo said charge", "jo\n", "\u202ejo", "x" * (NAME_CHARS_MAX + 1)]
)
def test_what_could_be_more_than_a_name_is_refused(name: str) -> None:
    with pytest.raises(typer.BadParameter, match="1 to 64 printable characters"):
        parse_actor(name)
