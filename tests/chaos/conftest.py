"""A bench with every scene, for the files whose tests let single calls go wrong."""

from collections.abc import Iterator

import pytest

from tests.chaos.bench import Bench, open_bench
from tests.chaos.scenes import build_scenes
from tests.chaos.sweep import Scene, list_points
from tests.support.strace import Injection, require_strace


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    require_strace()
    with open_bench(tmp_path_factory.mktemp("bench")) as opened:
        yield opened


@pytest.fixture(scope="module")
def scenes(bench: Bench) -> list[Scene]:
    return build_scenes(bench)


@pytest.fixture(scope="module")
def points(bench: Bench, scenes: list[Scene]) -> list[tuple[Scene, Injection]]:
    """Every kill worth trying, scene by scene."""
    return [point for scene in scenes for point in list_points(bench, scene)]
