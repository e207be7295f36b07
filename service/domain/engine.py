"""Engine artifacts, the host they were proven on, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
    """A verdict bound to a fingerprint. `verdict` is passed, rejected or unproven; `reason` says why in a sentence."""

    verdict: str
    metric: str
    loss: float | None
    max_loss: float
    reason: str
    fingerprint: Fingerprint
    created_at: str

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
