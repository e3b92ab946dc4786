"""The suite on the newer Pythons that are installed; 3.11 is the floor and runs everything."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("tests/unit", "tests/integration", "tests/contract")


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_suite_passes_on(version: str, tmp_path: Path) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], check=False).returncode != 0:
        pytest.skip(f"Python {version} is not installed")
    own = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run(
        [own, "-m", "pip", "install", "-q", "--require-hashes", "-r", "requirements/dev.lock"],
        check=True,
        cwd=REPOSITORY,
    )

    done = subprocess.run(
        [own, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *FOLDERS],
        check=False,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-5000:]
