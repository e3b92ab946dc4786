"""From configuration to adapters: which dialect is which."""

from collections.abc import Callable, Mapping
from typing import Final

from pydantic import SecretStr

from gateway.config import UpstreamConfig
from gateway.ports import Clock, Upstream
from gateway.upstreams.adapter import Dialect, HttpUpstream
from gateway.upstreams.ark import ARK
from gateway.upstreams.client import CallRecord, OpenTransport, UpstreamClient
from gateway.upstreams.seedance import SEEDANCE

_DIALECTS: Final[Mapping[str, Dialect]] = {"ark": ARK, "seedance": SEEDANCE}


def open_upstream(
    config: UpstreamConfig,
    credentials: Mapping[str, SecretStr],
    *,
    clock: Clock,
    on_call: Callable[[CallRecord], None],
    open_transport: OpenTransport | None = None,
) -> Upstream:
    """Return the adapter of a configured upstream; `credentials` by name. Nothing is sent yet.

    Raises: ConfigurationError, which never holds a secret.
    """
    dialect = _DIALECTS[config.dialect]
    client = UpstreamClient(config, dialect.tasks_url(config.base_url), credentials, open_transport)
    return HttpUpstream(config, dialect, client, clock, on_call)
