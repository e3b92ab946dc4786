"""What the tests of the simulation share."""

import pytest

from tests.simulation.machine import Machine


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("simulation"))
