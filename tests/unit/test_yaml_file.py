from pathlib import Path

import pytest

from gateway.yaml_file import BYTES_MAX, DEPTH_MAX, YamlError, read_yaml_mapping


def read(folder: Path, content: str | bytes) -> object:
    path = folder / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_yaml_mapping(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("16:9", "16:9"),
        ("2026-11-22", "2026-11-22"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("'12'", "12"),
        ("true", True),
        ("False", False),
        ("-5", -5),
        ("0", 0),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("~", None),
        ("", None),
        ("null", None),
    ],
)
def test_plain_words_mean_what_yaml_1_2_says(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, f"a: {text}\n") == {"a": value}


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    assert read(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
    }


def test_an_empty_file_holds_an_empty_mapping(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: 1\nb: {x: 1,\n  x: 2}\n", "file.yaml:3: the key 'x' is given twice"),
        ("1: a\n", "file.yaml:1: a key is not text"),
        ("true: a\n", "a key is not text"),
        ("- a\n", "must be a mapping at its top"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("a: !!python/object/apply:os.system [x]\n", "could not determine a constructor"),
        ("a: [1\n", "file.yaml:2:"),
        ("a: *b\n", "undefined alias"),
        (b"\xff\xfe\x00", "is not YAML in UTF-8"),
        ("a: \x00", "is not YAML in UTF-8"),
        ("a: " + "[" * (DEPTH_MAX + 1), "nested deeper"),
        ("a: " + "[" * 500_000, "nested deeper"),
        ("a: " + "x" * BYTES_MAX, f"has more than {BYTES_MAX} bytes"),
    ],
)
def test_says_where_and_why_a_file_is_refused(
    tmp_path: Path, content: str | bytes, problem: str
) -> None:
    with pytest.raises(YamlError) as refused:
        read(tmp_path, content)

    assert problem in str(refused.value)


def test_quotes_nothing_of_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(YamlError) as refused:
        read(tmp_path, "pepper: 'canary-of-the-pepper\nother: [\n")

    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=r"gone\.yaml: can't be read"):
        read_yaml_mapping(tmp_path / "gone.yaml")
