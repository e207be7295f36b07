"""Engine artifacts, the host they were proven on, and the verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

REFERENCE_VARIANT = "fp32-onnxruntime"
# Runtimes whose engines run on an NVIDIA GPU, and whose proof therefore needs one.
GPU_RUNTIMES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A host's NVIDIA GPU: its name, compute capability such as "8.6", and driver."""

    name: str
    compute_capability: str
    driver: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What must match for a measurement to hold: device, its relevant flags, driver, and library versions.

    A host's names its `gpu` beside the processor; that of an engine on the GPU has the GPU as device. `built_for` are
    the compute capabilities that an engine was compiled for.
    """

    device: str
    flags: tuple[str, ...]
    driver: str
    libraries: dict[str, str]
    gpu: Gpu | None = None
    built_for: tuple[str, ...] = ()

    def on_gpu(self) -> Fingerprint:
        """This host as engines on its GPU depend on it; itself where it has none."""
        if self.gpu is None:
            return self
        return replace(self, device=self.gpu.name, flags=(), driver=self.gpu.driver)

    def to_json(self) -> dict[str, Any]:
        """Without what a host or an engine lacks: digests of hosts without a GPU stay as they were."""
        value = asdict(self) | {"flags": list(self.flags), "built_for": list(self.built_for)}
        return {key: found for key, found in value.items() if found or key not in ("gpu", "built_for")}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Fingerprint:
        gpu = value.get("gpu")
        parts = {
            "flags": tuple(value["flags"]),
            "gpu": Gpu(**gpu) if gpu else None,
            "built_for": tuple(value.get("built_for", ())),
        }
        return Fingerprint(**(value | parts))


@dataclass(frozen=True, slots=True)
class Certificate:
    """A verdict bound to model, plan and host. `verdict` is passed, rejected or unproven; `reason` says why in a
    sentence. `independent`: whether calibration has seen none of the rows that it rests on. `speedup`: times the
    reference's speed at the optimal batch, None where the engine did not run. Certificates of earlier releases name
    neither model nor plan, and say neither whether they are independent nor how fast the engine is.
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
    independent: bool | None = None
    speedup: float | None = None
    min_speedup: float | None = None

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
    pairs = {library: (there.libraries.get(library, "none"), here.libraries.get(library, "none"))}
    if there.driver != "none":
        here = here.on_gpu()
        pairs |= {"driver": (there.driver, here.driver), "device": (there.device, here.device)}
    else:
        pairs = {"flags": (" ".join(sorted(there.flags)), " ".join(sorted(here.flags)))} | pairs
    return tuple(f"{name} was {then}, is {now}" for name, (then, now) in pairs.items() if then != now)


def can_prove(artifact: EngineArtifact, here: Fingerprint) -> bool:
    """Whether a host can run the artifact's runtime, and so validate it: what runs on a GPU needs one."""
    return artifact.runtime not in GPU_RUNTIMES or here.gpu is not None


def on_host(artifact: EngineArtifact, here: Fingerprint | None) -> EngineArtifact:
    """The artifact as this host may see it: a verdict that was passed on another kind of host is unproven here."""
    certificate = artifact.certificate
    gaps = proof_gaps(artifact, here) if here is not None else ()
    if certificate is None or certificate.verdict != "passed" or not gaps:
        return artifact
    step = "quantize again with the same recipe to prove it here"
    if here is not None and not can_prove(artifact, here):
        step = "serve it on a host with an NVIDIA GPU"
    reason = f"proven on another host ({'; '.join(gaps)}); {step}"
    return replace(artifact, certificate=replace(certificate, verdict="unproven", reason=reason))


def may_answer(artifact: EngineArtifact) -> bool:
    """Whether stable or canary may be this artifact: the reference, or an engine that a validation passed."""
    return artifact.certificate is None or artifact.certificate.verdict == "passed"


def never_ran(artifact: EngineArtifact) -> bool:
    """Whether the artifact was built where it could not run, and no host has validated it since.

    As stored: `on_host` calls unproven also what another kind of host has passed.
    """
    return artifact.certificate is not None and artifact.certificate.verdict == "unproven"


def proves_less(artifact: EngineArtifact, proven: EngineArtifact) -> bool:
    """Whether `artifact` adds nothing to what `proven` has shown of the same bytes on its kind of host: calibration has
    seen the rows of the one, and not, as far as is known, those of the other.
    """
    new, old = artifact.certificate, proven.certificate
    if new is None or old is None or artifact.sha256 != proven.sha256:
        return False
    weaker = new.independent is False and old.independent is not False
    return weaker and may_answer(proven) and not proof_gaps(proven, new.fingerprint)
