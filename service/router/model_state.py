"""What is known of one model from the first wish to serve it: its routes, and why a wished version does not answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from service.domain.deployment import ServedModel
from service.errors import NoReadyVersion, NotFound, NotReady, OctavoError
from service.router.replica import Replica
from service.router.routes import ModelRoutes, RoutedReplica
from service.router.shadow import ShadowMirror

READY, LOADING, UNLOADING, UNAVAILABLE = "READY", "LOADING", "UNLOADING", "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """A line of the repository index: `reason` says why a version is not READY, or what of it failed to load."""

    name: str
    version: int
    state: str
    reason: str = ""


@dataclass(slots=True, eq=False)
class ModelState:
    """`wanted` is the newest wish, `routes` what answers now; `failure` is what the last wish that was tried met, which
    had `failed_revision`.

    `draining` are the replicas that answer what was admitted before they were taken away, by the task that waits.
    """

    wanted: ServedModel
    routes: ModelRoutes | None = None
    mirror: ShadowMirror | None = None
    failure: OctavoError | None = None
    failed_revision: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    draining: dict[asyncio.Task[None], int] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether the wish was fulfilled or has failed; only a first load that goes on is neither."""
        return self.routes is not None or self.failure is not None or self.unloaded

    @property
    def wish_failure(self) -> OctavoError | None:
        """Why the newest wish could not be loaded; None while it is tried for the first time."""
        return self.failure if self.failed_revision >= self.wanted.deployment.revision else None

    @property
    def unloaded(self) -> bool:
        """Whether nothing answers, as is wished; the last answers may still be on their way."""
        return self.routes is None and not self.wanted.deployment.loaded

    def routes_of(self, version: int | None) -> ModelRoutes:
        """Raises NoReadyVersion, NotFound or NotReady in the words that clients of the v2 protocol look for."""
        routes = self.routes
        if routes is not None and (version is None or version == routes.served.version.version):
            return routes
        name = self.wanted.name
        if version is None:
            raise NoReadyVersion(f"Request for unknown model: {name!r} has no available versions; {self._why()}")
        if version == self.wanted.version.version:
            raise NotReady(
                f"Request for unknown model: {name!r} version {version} is not at ready state; {self._why()}"
            )
        raise NotFound(f"Request for unknown model: {name!r} version {version} is not found; leave the version out")

    def pick(self, version: int | None, variant: str | None) -> RoutedReplica:
        """Raises what `routes_of` and `ModelRoutes.pick` raise; NotReady where a deployed variant does not answer."""
        routes = self.routes_of(version)
        try:
            return routes.pick(variant)
        except NotFound:
            wanted = self.wanted
            unproven = any(artifact.variant == variant for artifact in wanted.unproven)
            deployed = unproven or variant in wanted.deployment.variants
            if not deployed or version not in (None, wanted.version.version):
                raise
            why = wanted.notice if unproven else self._why()
            raise NotReady(f"variant {variant!r} of model {wanted.name!r} is not at ready state; {why}") from None

    def install(self, routes: ModelRoutes | None) -> list[Replica]:
        """Makes `routes` the ones that answer, at once; gives the replicas that answer no more."""
        before = self.routes.replicas.values() if self.routes else ()
        self.routes = routes
        self.mirror = ShadowMirror(routes.shadow) if routes and routes.shadow else None
        kept = set(routes.replicas.values()) if routes else set()
        return [replica for replica in before if replica not in kept]

    @property
    def notice(self) -> str:
        """Why something else answers than what is deployed, or nothing does; "" where all is as wished."""
        if self.failure is None:
            return self.wanted.notice
        served = self.routes.served if self.routes is not None else None
        instead = f"; {served.answering} answers in its place" if served and served.fallback_for else ""
        return f"{self.failure}{instead}"

    def statuses(self) -> list[VersionStatus]:
        """The version that answers, the wished one where that is another, and those that still drain."""
        name, wanted = self.wanted.name, self.wanted.version.version
        reason = self.notice
        lines: list[VersionStatus] = []
        if self.routes is not None:
            now = self.routes.served.version.version
            lines.append(VersionStatus(name, now, READY, reason if now == wanted else ""))
        draining = set(self.draining.values())
        if self.unloaded and wanted not in draining:
            lines.append(VersionStatus(name, wanted, UNAVAILABLE, "unloaded"))
        elif not self.unloaded and (not lines or lines[0].version != wanted):
            line = VersionStatus(name, wanted, LOADING, self.wanted.notice)
            if self.wish_failure is not None:
                line = VersionStatus(name, wanted, UNAVAILABLE, reason)
            lines.append(line)
        listed = {line.version for line in lines}
        return lines + [VersionStatus(name, version, UNLOADING) for version in sorted(draining - listed)]

    def _why(self) -> str:
        if self.unloaded:
            return f"it is unloaded: POST /v2/repository/models/{self.wanted.name}/load loads it"
        return f"its load failed: {self.wish_failure}" if self.wish_failure else "it is loading: try again"
