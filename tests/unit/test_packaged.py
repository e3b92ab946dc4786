import pytest

from gateway.packaged import find_data_file
from gateway.yaml_file import read_yaml_mapping


def test_finds_the_models_table() -> None:
    assert "families" in read_yaml_mapping(find_data_file("models.yaml"))


def test_names_a_file_that_is_missing() -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        find_data_file("nothing.yaml")
