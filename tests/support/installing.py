"""Programs that some tests need: installed on machines that are there for tests, else missed.

A test that misses one is skipped, and says so. As root, CI=true or TEST_INSTALL=1 lets it install.
"""

import os
import shutil
import subprocess


def may_install() -> bool:
    """Whether packages of the system may be installed for the tests."""
    is_asked = os.environ.get("CI") == "true" or os.environ.get("TEST_INSTALL") == "1"
    return is_asked and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install a package of the system. CalledProcessError if that fails."""
    for command in (
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", package),
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
