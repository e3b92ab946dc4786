"""The Dockerfile, built and run without a container engine.

Debian 12 with its own Python stands in for the official image, under that image's name; the result
runs as the image says, without capabilities, on a read-only root. Packages come from wherever pip
is configured to take them on this machine.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
TOOLS: Final = ("buildah", "debootstrap", "setpriv", "tar", "unshare")
TAG: Final = "seedance-gateway:test"
CERTIFICATES: Final = "/etc/ssl/certs"
PIP_SETTINGS: Final = ("cert", "index-url", "extra-index-url", "trusted-host", "proxy")
STOP_S_MAX: Final = 30.0

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# Namespaced, so that the mounts end with the process. Arguments: root, then the command.
RUN: Final = """\
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o uid=10001,gid=10001,mode=0700 tmpfs "$root/data"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs \
    --bounding-set=-all "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its unpacked root and what it says about itself."""

    root: Path
    config: Mapping[str, Any]

    def environment(self, **more: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config["Env"]) | more

    def command(self, *arguments: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", RUN, "sh", str(self.root), *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )


def read_pip_settings() -> dict[str, str]:
    """Return what this machine's pip is told by files and environment."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split("=", 1) for line in listing.splitlines() if "=" in line)
    settings = {name.rpartition(".")[2]: value.strip("'") for name, value in pairs}
    return {name: settings[name] for name in PIP_SETTINGS if name in settings}


def build_base(folder: Path, buildah: list[str], name: str) -> None:
    """Register Debian with Python under the name of the official image."""
    root = folder / "debian"
    packages = "python3,python3-venv,ca-certificates"
    debootstrap = [
        "debootstrap",
        "--variant=minbase",
        f"--include={packages}",
        "bookworm",
        str(root),
    ]
    subprocess.run(debootstrap, check=True, capture_output=True)
    archive = folder / "debian.tar"
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    container = run_text([*buildah, "from", "scratch"])
    run_text([*buildah, "add", "--quiet", container, str(archive), "/"])
    run_text([*buildah, "commit", "--quiet", "--rm", container, name])


def build_image(folder: Path, buildah: list[str]) -> None:
    settings = read_pip_settings()
    file = folder / "pip.conf"
    file.write_text("\n".join(["[global]", *(f"{k} = {v}" for k, v in settings.items())]) + "\n")
    volumes = [f"{file}:/etc/pip.conf:ro", f"{CERTIFICATES}:{CERTIFICATES}:ro"]
    run_text(
        [
            *buildah,
            *("bud", "--quiet", "--format", "docker", "--isolation", "chroot"),
            *("--pull-never", "--network", "host", "--tag", TAG),
            *(f"--volume={volume}" for volume in volumes),
            str(ROOT),
        ]
    )


def run_text(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("building without a container engine needs root")
    first = (ROOT / "Dockerfile").read_text().partition("ARG PYTHON_IMAGE=")[2]
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        buildah = ["buildah", "--storage-driver", "vfs"]
        buildah += ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
        build_base(folder, buildah, first.split()[0])
        build_image(folder, buildah)
        container = run_text([*buildah, "from", "--pull-never", TAG])
        described = json.loads(run_text([*buildah, "inspect", "--type", "image", TAG]))
        root = Path(run_text([*buildah, "mount", container]))
        yield Image(root, described["Docker"]["config"])
        run_text([*buildah, "rm", container])


@contextmanager
def started(image: Image, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start the image's own entry point and command with `arguments` behind it."""
    command = [*image.config["Entrypoint"], *image.config["Cmd"], *arguments]
    with subprocess.Popen(
        image.command(*command),
        env=image.environment(**environment),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def get_status(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_says_how_it_wants_to_be_run(image: Image) -> None:
    assert image.config["User"] == "10001:10001"
    assert image.config["StopSignal"] == "SIGTERM"
    assert set(image.config["Volumes"]) == {"/data"}
    assert set(image.config["ExposedPorts"]) == {"8080/tcp", "9090/tcp"}
    assert image.config["Healthcheck"]["Test"][0] == "CMD"


def test_holds_neither_tools_nor_sources(image: Image) -> None:
    assert sorted(path.name for path in (image.root / "opt").iterdir()) == ["gateway"]
    assert not (image.root / "build").exists()
    assert not list((image.root / "opt/gateway").rglob("pip"))
    packages = image.root / "opt/gateway/lib/python3.11/site-packages"
    assert (packages / "gateway/_config/models.yaml").is_file()
    assert list((packages / "gateway/__pycache__").iterdir())


def test_can_write_to_its_data_folder_only(image: Image) -> None:
    probe = (
        "touch /x; touch /opt/gateway/x; touch /data/x && id -u && grep CapEff /proc/self/status"
    )
    done = image.run("sh", "-c", probe)
    assert done.stdout.split() == ["10001", "CapEff:", "0000000000000000"]
    assert done.stderr.count("Read-only file system") == 2


def test_serves_reports_its_health_and_stops_when_told(image: Image) -> None:
    check = image.config["Healthcheck"]["Test"][1:]
    with started(image, "--sandbox", "--port", "0", "--format", "json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        port = str(urlsplit(ready["url"]).port)
        assert urlsplit(ready["url"]).hostname == "0.0.0.0"
        assert get_status(ready["url"], "/readyz") == 200
        assert image.run(*check, GATEWAY_SERVER__PORT=port).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S_MAX) == 0
    assert image.run(*check, GATEWAY_SERVER__PORT=port).returncode == 1


def test_without_configuration_it_says_what_to_set(image: Image) -> None:
    done = image.run(*image.config["Entrypoint"], *image.config["Cmd"])
    assert done.returncode == 2
    assert "ARK_BASE_URL" in done.stderr
