"""The data files: in `config/` of a checkout, in `gateway/_config/` of an installed wheel."""

from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).resolve().parent


def find_data_file(name: str) -> Path:
    """Return the path of `models.yaml` and the like.

    Raises: FileNotFoundError if this installation lacks it.
    """
    for folder in (_HERE / "_config", _HERE.parent / "config"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"This installation lacks its data file {name}: install it again.")
