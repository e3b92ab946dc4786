import json

import pytest

from gateway.cli.output import clean, print_fields, print_json, print_table, say


def test_a_table_lines_up_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id", "name"], [["1", "a"], ["22", None]])

    assert capsys.readouterr().out == "ID  NAME\n1   a\n22  -\n"


def test_json_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": ["é", None]})

    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"a": ["é", None]}


def test_nothing_reaches_a_terminal_that_it_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x07\nc"

    print_table(["name"], [[evil]])
    print_fields({"name": evil})
    say(evil)

    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\x07" not in captured.out + captured.err
    assert captured.out.count("\n") == 3
    assert clean("a\nb", keeps_lines=True) == "a\nb"
