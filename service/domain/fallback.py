"""Which engines of a version may answer where the deployed one cannot: those proven here, the fastest kind first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from service.domain.engine import REFERENCE_VARIANT, EngineArtifact, Fingerprint, may_answer, on_host

_RUNTIMES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
_PRECISIONS = ("int8", "fp16", "bf16", "fp32")


def as_here(artifact: EngineArtifact, host: Fingerprint | None, missing: Callable[[str], str]) -> EngineArtifact:
    """The artifact as this host may see it; `missing` says what a runtime lacks here, "" for nothing."""
    lacks = missing(artifact.runtime)
    if not lacks:
        return on_host(artifact, host)
    return unproven_because(artifact, f"runtime {artifact.runtime!r} cannot run here: {lacks}")


def unproven_because(artifact: EngineArtifact, reason: str) -> EngineArtifact:
    """The artifact with its verdict taken back; the reference, which has none, is left as it is."""
    if artifact.certificate is None:
        return artifact
    return replace(artifact, certificate=replace(artifact.certificate, verdict="unproven", reason=reason))


def fallback_chain(artifacts: Iterable[EngineArtifact]) -> tuple[EngineArtifact, ...]:
    """Of artifacts as seen on this host those that may answer: TensorRT first, then ONNX Runtime on the GPU, then the
    processor's, and the reference last.
    """
    return tuple(sorted(filter(may_answer, artifacts), key=_place))


def _place(artifact: EngineArtifact) -> tuple[bool, int, int, str]:
    runtime = _RUNTIMES.index(artifact.runtime) if artifact.runtime in _RUNTIMES else len(_RUNTIMES)
    precision = _PRECISIONS.index(artifact.precision) if artifact.precision in _PRECISIONS else len(_PRECISIONS)
    return artifact.variant == REFERENCE_VARIANT, runtime, precision, artifact.variant
