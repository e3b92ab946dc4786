"""Limits that a command sets beside a running server: heeded at once, rates within a second."""

import time

import httpx
import pytest

from tests.support.gateway import Gateway
from tests.support.gateway_client import MODEL, SURFACES
from tests.support.waiting import PATIENCE_S

PATH = SURFACES[0]
BODY = {
    "model": MODEL,
    "content": [{"type": "text", "text": "Paper boats --resolution 480p --duration 5"}],
}
HEEDED_S_MAX = 1.0


@pytest.fixture
def key(gateway: Gateway) -> str:
    """A key whose limits are no other test's."""
    return gateway.create_key()


def set_limit(gateway: Gateway, key: str, *options: str) -> None:
    done = gateway.run_cli("limits", "set", "--key", key[8:20], *options)
    assert done.returncode == 0, done.stderr


def submit(client: httpx.Client) -> int:
    return client.post(PATH, json=BODY).status_code


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--metric", "money", "--window", "day"), 402),
        pytest.param(("--metric", "videos", "--window", "month"), 402, marks=pytest.mark.long),
        pytest.param(("--metric", "seconds", "--window", "ever"), 402, marks=pytest.mark.long),
        pytest.param(("--metric", "tokens", "--window", "day"), 402, marks=pytest.mark.long),
        (("--metric", "tasks"), 429),
    ],
)
def test_a_budget_set_beside_the_server_binds_the_next_submit(
    gateway: Gateway, key: str, options: tuple[str, ...], status: int
) -> None:
    with gateway.open_client(key) as client:
        before = submit(client)
        set_limit(gateway, key, *options, "--cap", "0")
        refused = submit(client)
        set_limit(gateway, key, *options, "--cap", "none")
        after = submit(client)

    assert (before, refused, after) == (200, status, 200)


def test_a_rate_set_beside_the_server_binds_within_a_second(gateway: Gateway, key: str) -> None:
    with gateway.open_client(key) as client:
        assert not is_refused(client)
        set_limit(gateway, key, "--metric", "rpm", "--cap", "0")
        set_s = last_s = time.monotonic()
        while not is_refused(client):
            last_s = time.monotonic()
            assert last_s < set_s + PATIENCE_S
        refused = submit(client)

    assert last_s - set_s <= HEEDED_S_MAX
    assert refused == 429


def is_refused(client: httpx.Client) -> bool:
    """Whether a submit would be refused now; none is made."""
    answer = client.post(PATH, params={"dry_run": "1"}, json=BODY).raise_for_status()
    return answer.json()["would_refuse"] is not None
