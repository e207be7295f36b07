"""How one model's requests are spread over its replicas. A deployment change makes new routes; these never change."""

from __future__ import annotations

from typing import NamedTuple

from service.domain.deployment import ServedModel
from service.errors import NotFound
from service.router.canary import CanaryShare
from service.router.replica import Replica
from service.router.route import Route, RouteMetrics


class RoutedReplica(NamedTuple):
    """A loaded replica and the route that leads to it."""

    route: Route
    replica: Replica


class ModelRoutes:
    """The routes of one served model. `complete` is whether every variant of the deployment could be loaded."""

    __slots__ = ("_by_variant", "_share", "canary", "complete", "served", "shadow", "stable")

    def __init__(self, served: ServedModel, replicas: dict[str, Replica]) -> None:
        """`replicas` by variant, the stable one among them; a canary or shadow without a replica has no route."""
        wanted = served.deployment
        self.served = served
        self.complete = not served.fallback_for and all(variant in replicas for variant in wanted.variants)
        self.stable = _routed("stable", served, replicas[wanted.stable])
        self.canary = self._optional("canary", wanted.canary, replicas)
        self.shadow = self._optional("shadow", wanted.shadow, replicas)
        self._share = CanaryShare(wanted.canary_weight)
        self._by_variant = {routed.route.variant: routed for routed in reversed(self.all)}
        for routed in self._by_variant.values():
            routed.replica.allow_inline(routed is not self.shadow)
            routed.replica.follow(wanted.batching)

    @property
    def all(self) -> list[RoutedReplica]:
        """Every route that there is, stable first."""
        return [routed for routed in (self.stable, self.canary, self.shadow) if routed is not None]

    @property
    def replicas(self) -> dict[str, Replica]:
        return {variant: routed.replica for variant, routed in self._by_variant.items()}

    @property
    def lost(self) -> bool:
        """Whether a replica's device has failed, so that these routes are better than nothing alone."""
        return any(routed.replica.lost is not None for routed in self.all)

    def pick(self, variant: str | None) -> RoutedReplica:
        """The named variant's, or the one whose turn it is. Raises NotFound for a variant that is not deployed."""
        if variant is not None:
            return self._named(variant)
        if self.canary is not None and self._share.takes_next():
            return self.canary
        return self.stable

    def metrics_of(self, route: str) -> RouteMetrics:
        """The metric handles of the route of this name; the stable route's where there is none."""
        for routed in self.all:
            if routed.route.name == route:
                return routed.route.metrics
        return self.stable.route.metrics

    def _named(self, variant: str) -> RoutedReplica:
        routed = self._by_variant.get(variant)
        if routed is None:
            raise NotFound(
                f"variant {variant[:80]!r} of model {self.served.name!r} is not deployed; "
                f"name one of {', '.join(sorted(self._by_variant))}, or none"
            )
        return routed

    def _optional(self, name: str, variant: str | None, replicas: dict[str, Replica]) -> RoutedReplica | None:
        if variant is None or variant not in replicas:
            return None
        return _routed(name, self.served, replicas[variant])


def _routed(name: str, served: ServedModel, replica: Replica) -> RoutedReplica:
    artifact = replica.artifact
    batched = replica.max_rows > 0
    return RoutedReplica(Route(name, served.name, artifact.version, artifact.variant, served.labels, batched), replica)
