"""Which upstream serves which model. Later a selection policy; today the first that serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.tasks import Route


@dataclass(frozen=True, slots=True)
class UpstreamRoutes:
    """What routing knows of an upstream. `models` renames: public name to the upstream's."""

    name: str
    credentials: tuple[str, ...]
    models: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RouteTable:
    """The configured upstreams, in order of preference."""

    upstreams: Sequence[UpstreamRoutes]

    def choose_route(self, model: str) -> Route | None:
        """Return where a new task of `model` goes, or None if there is no upstream at all.

        An upstream that names the model comes before one that would get it under its public name.
        """
        for upstream in self.upstreams:
            if model in upstream.models:
                return Route(upstream.name, upstream.credentials[0], upstream.models[model])
        for upstream in self.upstreams:
            return Route(upstream.name, upstream.credentials[0], model)
        return None

    def pin_route(self, model: str, upstream_name: str, credential: str) -> Route | None:
        """Return the route to one credential, for a request that depends on a task made there."""
        for upstream in self.upstreams:
            if upstream.name == upstream_name and credential in upstream.credentials:
                return Route(upstream_name, credential, upstream.models.get(model, model))
        return None
