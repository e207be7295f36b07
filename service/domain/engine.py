"""Engine artifacts, the host they were proven on, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

REFERENCE_VARIANT = "fp32-onnxruntime"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must match for a measurement to hold: device, its relevant flags, driver, and library versions."""

    device: str
    flags: tuple[str, ...]
    driver: str
    libraries: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"flags": list(self.flags)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Fingerprint:
        return Fingerprint(**(value | {"flags": tuple(value["flags"])}))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A verdict bound to model, plan and host. `verdict` is passed, rejected or unproven; `reason` says why in a
    sentence. Certificates of earlier releases name neither model nor plan.
    """

    verdict: str
    metric: str
    loss: float | None
    max_loss: float
    reason: str
    fingerprint: Fingerprint
    created_at: str
    model_sha256: str | None = None
    plan_sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"fingerprint": self.fingerprint.to_json()}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Certificate:
        return Certificate(**(value | {"fingerprint": Fingerprint.from_json(value["fingerprint"])}))


@dataclass(frozen=True, slots=True)
class EngineArtifact:
    """The stored file of one variant of one model version. `job` is None for the reference, which no job built."""

    model: str
    version: int
    variant: str
    runtime: str
    precision: str
    recipe_digest: str
    sha256: str
    size_bytes: int
    blob_key: str
    batch_max: int
    certificate: Certificate | None
    fingerprint: Fingerprint | None
    job: str | None
    created_at: datetime


def proof_gaps(artifact: EngineArtifact, here: Fingerprint) -> tuple[str, ...]:
    """What of this host, that decides an engine's answers, is not as it was where the engine was proven.

    The processor's kernel-choosing flags and the version of the engine's own runtime; with a GPU's driver, that and the
    device too. Another processor of the same flags runs the same kernels. Empty for the reference: it needs no proof.
    """
    if artifact.certificate is None:
        return ()
    there, library = artifact.certificate.fingerprint, artifact.runtime
    pairs = {
        "flags": (" ".join(sorted(there.flags)), " ".join(sorted(here.flags))),
        library: (there.libraries.get(library, "none"), here.libraries.get(library, "none")),
    }
    if there.driver != "none":
        pairs |= {"driver": (there.driver, here.driver), "device": (there.device, here.device)}
    return tuple(f"{name} was {then}, is {now}" for name, (then, now) in pairs.items() if then != now)


def on_host(artifact: EngineArtifact, here: Fingerprint | None) -> EngineArtifact:
    """The artifact as this host may see it: a verdict that was passed on another kind of host is unproven here."""
    certificate = artifact.certificate
    gaps = proof_gaps(artifact, here) if here is not None else ()
    if certificate is None or certificate.verdict != "passed" or not gaps:
        return artifact
    reason = f"proven on another host ({'; '.join(gaps)}); quantize again with the same recipe to prove it here"
    return replace(artifact, certificate=replace(certificate, verdict="unproven", reason=reason))


def may_answer(artifact: EngineArtifact) -> bool:
    """Whether stable or canary may be this artifact: the reference, or an engine that a validation passed."""
    return artifact.certificate is None or artifact.certificate.verdict == "passed"
