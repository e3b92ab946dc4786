"""The wire is tried on both event loops: the server runs on uvloop, which has its own errors."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

LoopFactories = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> LoopFactories:
    factories: LoopFactories = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_delivery_client.py":
        return {**factories, "uvloop": uvloop.new_event_loop}
    return factories
