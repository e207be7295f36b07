"""Which variants of a model answer which share of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from service.domain.batching import Batching
from service.domain.engine import REFERENCE_VARIANT, EngineArtifact
from service.domain.fallback import unproven_because
from service.domain.model import ModelVersion


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model's routes: the stable variant, perhaps a canary with a weight in percent, perhaps a shadow.

    `revision` grows by one with every change, so a router sees at a glance whether it is up to date. What is not
    `loaded` stays deployed and answers nothing until it is loaded again. `batching` outlives a change of the routes.
    """

    model: str
    version: int
    stable: str
    canary: str | None = None
    canary_weight: int = 0
    shadow: str | None = None
    revision: int = 1
    loaded: bool = True
    batching: Batching = field(default_factory=Batching)

    @property
    def variants(self) -> tuple[str, ...]:
        """Every variant that must be loaded, stable first, each once."""
        named = (self.stable, self.canary, self.shadow)
        return tuple(dict.fromkeys(v for v in named if v is not None))

    def to_json(self) -> dict[str, Any]:
        """The contract's body: version, stable, canary, shadow, loaded."""
        canary = {"variant": self.canary, "weight": self.canary_weight} if self.canary else None
        return {
            "version": self.version,
            "stable": {"variant": self.stable},
            "canary": canary,
            "shadow": {"variant": self.shadow} if self.shadow else None,
            "loaded": self.loaded,
        }


@dataclass(frozen=True, slots=True)
class ServedModel:
    """All a router needs to serve one model: its version, its deployment, and an artifact for each variant in it.

    `unproven` are engines that are deployed and cannot answer here, each with the reason in its certificate: another
    answers in their place, or the canary is left out. `fallbacks` are what may answer should the stable one fail, and
    `fallback_for` is the variant that did, where its stable variant is one of them.
    """

    version: ModelVersion
    deployment: Deployment
    artifacts: Mapping[str, EngineArtifact]
    labels: tuple[str, ...] = ()
    unproven: tuple[EngineArtifact, ...] = ()
    fallbacks: tuple[EngineArtifact, ...] = ()
    fallback_for: str = ""

    @property
    def notice(self) -> str:
        """Why something else answers than what is deployed, or nothing."""
        return "; ".join(
            f"variant {artifact.variant!r} is unproven on this host and {self.answering} answers: "
            f"{artifact.certificate.reason if artifact.certificate else ''}"
            for artifact in self.unproven
        )

    @property
    def answering(self) -> str:
        """The stable variant in words."""
        stable = self.deployment.stable
        return "the FP32 reference" if stable == REFERENCE_VARIANT else f"variant {stable!r}"

    def with_fallback(self, fallback: EngineArtifact, reason: str) -> ServedModel:
        """The same model answered by `fallback` alone, and because of `reason` not by its stable variant."""
        failed = self.artifacts[self.deployment.stable]
        unproven = (unproven_because(failed, reason),) if failed.certificate is not None else ()
        only = replace(self.deployment, stable=fallback.variant, canary=None, canary_weight=0, shadow=None)
        return replace(
            self,
            deployment=only,
            artifacts={fallback.variant: fallback},
            unproven=(*self.unproven, *unproven),
            fallback_for=failed.variant,
        )

    @property
    def name(self) -> str:
        return self.version.name
