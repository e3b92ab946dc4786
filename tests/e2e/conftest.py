"""Real programs: one gateway for all who only use it, and a factory for those who upset theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.books import find_differences_below
from tests.support.captured import Captured
from tests.support.gateway import Gateway, run_gateway

StartGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    """Keep everything emitted; at the end of the session nothing secret may be in it."""
    captured = Captured(tmp_path_factory.mktemp("captured"))
    yield captured
    leaks = list(captured.find_leaks())
    assert not leaks, f"{captured.folder}: {leaks}"


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, captured: Captured) -> Iterator[Gateway]:
    """A gateway with its sandbox, shared: submit to it, but don't change how it works."""
    with run_gateway(tmp_path_factory.mktemp("gateway"), captured) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _shared_books_add_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that used the shared gateway, its books add up, while it runs."""
    shared: Gateway | None = None
    if "gateway" in request.fixturenames:
        shared = request.getfixturevalue("gateway")
    yield
    if shared is not None:
        differences = find_differences_below(shared.data_dir)
        assert not differences, "\n".join(differences)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    """A client of the shared gateway, with its key."""
    with gateway.open_client() as client:
        yield client


@pytest.fixture
def start_gateway(tmp_path: Path, captured: Captured) -> Iterator[StartGateway]:
    """Start gateways of one's own, each on the data folder `tmp_path / name`."""
    with ExitStack() as stack:

        def start(
            *arguments: str,
            environ: Mapping[str, str] | None = None,
            name: str = "data",
        ) -> Gateway:
            chosen: Sequence[str] = arguments or ("--sandbox",)
            return stack.enter_context(run_gateway(tmp_path / name, captured, chosen, environ))

        yield start
