"""Small valid values that tests start from."""

from __future__ import annotations

from datetime import UTC, datetime

from service.domain.engine import Certificate, EngineArtifact, Fingerprint
from service.domain.recipe import Budget, QuantizeRequest, Recipe
from service.domain.tensor import TensorSpec
from service.registry.datasets import NewDataset
from service.registry.models import NewModelVersion

IMAGE = TensorSpec("input", "FP32", (-1, 1, 8, 8))
LOGITS = TensorSpec("logits", "FP32", (-1, 10))


def new_model(name: str = "digits", sha256: str = "a" * 64) -> NewModelVersion:
    return NewModelVersion(name, "onnx", sha256, 1234, 17, (IMAGE,), (LOGITS,))


def new_dataset(name: str = "rows", sha256: str = "d" * 64) -> NewDataset:
    return NewDataset(name, sha256, 99, 10, {"input": IMAGE}, True, f"content/{sha256}")


def certificate(verdict: str = "passed") -> Certificate:
    fingerprint = Fingerprint("cpu", ("avx2",), "none", {"onnxruntime": "1"})
    return Certificate(verdict, "top1", 0.001, 0.01, "lost 0.1 %", fingerprint, "2026-01-01T00:00:00Z")


def artifact(variant: str = "int8-onnxruntime", digest: str = "r1", verdict: str = "passed") -> EngineArtifact:
    proof = certificate(verdict)
    return EngineArtifact(
        model="digits",
        version=1,
        variant=variant,
        runtime="onnxruntime",
        precision="int8",
        recipe_digest=digest * 16,
        sha256="b" * 64,
        size_bytes=10,
        blob_key="content/bb",
        batch_max=32,
        certificate=proof,
        fingerprint=proof.fingerprint,
        job="j1",
        created_at=datetime.now(UTC),
    )


def quantize_request(precision: str = "int8", deploy: str = "none") -> QuantizeRequest:
    return QuantizeRequest(
        model="digits",
        version=1,
        model_sha256="a" * 64,
        recipe=Recipe(precision=precision),
        calibration="rows",
        calibration_sha256="d" * 64,
        validation="rows",
        validation_sha256="d" * 64,
        budget=Budget("top1", 0.01),
        deploy=deploy,
    )
