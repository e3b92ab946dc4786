"""schemathesis makes requests out of the description and compares the answers with it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
SEED = "20260101"
REPORT_LINES_MAX = 200
REPORT_CHARS_MAX = 300
"""The requests at the boundaries are as long as a head may be."""


@pytest.fixture(scope="module")
def fuzzed_gateway(
    tmp_path_factory: pytest.TempPathFactory, captured: Captured
) -> Iterator[Gateway]:
    """A gateway of its own: many of the made-up tasks are real ones to it."""
    environ = {"GATEWAY_STATUS__WAIT_S_MAX": "1"}
    folder = tmp_path_factory.mktemp("fuzzed")
    with run_gateway(folder, captured, environ=environ) as gateway:
        yield gateway


def fuzz(gateway: Gateway, folder: Path, *options: str) -> None:
    """Run schemathesis against the gateway; fail with its report if it finds anything."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{gateway.url}/openapi.json",
            "--header",
            f"Authorization: Bearer {gateway.key}",
            "--checks",
            ",".join(CHECKS),
            "--seed",
            SEED,
            "--request-timeout",
            "70",
            "--warnings",
            "off",
            *options,
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=800,
        cwd=folder,
    )
    report = [line[:REPORT_CHARS_MAX] for line in (done.stdout + done.stderr).splitlines()]
    assert done.returncode == 0, "\n".join(report[-REPORT_LINES_MAX:])


def test_answers_to_made_up_requests_are_as_described(
    fuzzed_gateway: Gateway, tmp_path: Path
) -> None:
    fuzz(fuzzed_gateway, tmp_path, "--phases", "examples,fuzzing", "--max-examples", "5")


def test_answers_to_reads_at_every_boundary_are_as_described(
    fuzzed_gateway: Gateway, tmp_path: Path
) -> None:
    fuzz(fuzzed_gateway, tmp_path, "--phases", "coverage", "--exclude-method", "POST")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_answers_are_as_described_at_length(fuzzed_gateway: Gateway, tmp_path: Path) -> None:
    fuzz(fuzzed_gateway, tmp_path, "--max-examples", "300")
