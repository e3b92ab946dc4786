"""The whole program on PostgreSQL, two servers beside each other."""

import time

import pytest

from gateway.cli.simulated import SANDBOX_TIME_SCALE
from tests.e2e.conftest import StartGateway
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_program, wait_for_end
from tests.support.published import make_body

PATH = "/seedance/generations"
PEPPER = "7f3c9a52e1b84d06a5c2f9e87b1d4c60"


@pytest.fixture
def environ(postgres_url: str) -> dict[str, str]:
    return {"DATABASE_URL": postgres_url, "GATEWAY_AUTH__PEPPER": PEPPER}


@pytest.fixture
def pair(
    environ: dict[str, str], start_gateway: StartGateway, captured: Captured
) -> tuple[Gateway, Gateway]:
    """Two servers on one database and one sandbox."""
    captured.secrets.add(PEPPER)
    migrated = run_program(["migrate"], captured=captured, environ=environ)
    assert migrated.returncode == 0, migrated.stderr
    first = start_gateway("--sandbox", environ=environ, name="first")
    assert first.sandbox_url is not None
    as_fast = {**environ, "GATEWAY_OBSERVER__TIME_SCALE": str(SANDBOX_TIME_SCALE)}
    second = start_gateway("--sandbox-url", first.sandbox_url, environ=as_fast, name="second")
    return first, second


def test_an_unmigrated_database_is_refused_and_told_what_to_do(
    environ: dict[str, str], captured: Captured
) -> None:
    done = run_program(["serve", "--sandbox", "--port", "0"], captured=captured, environ=environ)

    assert done.returncode == 2
    assert "seedance-gateway migrate" in done.stderr
    assert environ["DATABASE_URL"] not in done.stderr


def test_a_pepper_is_asked_for(environ: dict[str, str], captured: Captured) -> None:
    run_program(["migrate"], captured=captured, environ=environ)
    del environ["GATEWAY_AUTH__PEPPER"]

    done = run_program(["serve", "--sandbox", "--port", "0"], captured=captured, environ=environ)

    assert done.returncode == 2
    assert "auth.pepper" in done.stderr


def test_a_task_submitted_at_one_server_is_followed_at_the_other(
    pair: tuple[Gateway, Gateway],
) -> None:
    first, second = pair
    with first.open_client() as client, second.open_client(first.key) as other:
        task_id = client.post(PATH, json=make_body("sandbox:queued=0 sandbox:run=40")).json()["id"]
        early = other.get(f"{PATH}/{task_id}").json()
        done = wait_for_end(other, f"{PATH}/{task_id}")
        same = client.get(f"{PATH}/{task_id}").json()

    assert early["status"] in {"queued", "running"}
    assert done["status"] == "succeeded"
    assert same == done


def test_a_key_revoked_by_command_is_refused_by_both_within_a_second(
    pair: tuple[Gateway, Gateway], environ: dict[str, str]
) -> None:
    first, second = pair
    assert first.key is not None
    key_id = first.key[8:20]
    with first.open_client() as client, second.open_client(first.key) as other:
        assert client.get(PATH).status_code == other.get(PATH).status_code == 200

        revoked = run_program(["keys", "revoke", key_id], captured=first.captured, environ=environ)
        revoked_at_s = time.monotonic()
        while other.get(PATH).status_code == 200 or client.get(PATH).status_code == 200:
            assert time.monotonic() - revoked_at_s < 10
        print(f"refused {time.monotonic() - revoked_at_s:.3f} s after the command")

    assert revoked.returncode == 0
