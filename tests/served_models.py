"""Small served models: their ONNX files made on the spot, their artifacts and deployments without a registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import EngineArtifact
from service.domain.model import ModelVersion, Preprocessing
from service.engines.engine import Engine
from service.engines.loader import load_engine

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
STABLE = "fp32-onnxruntime"
PREPROCESSING = Preprocessing("classification", 2, 2, "NCHW", "GRAY", "stretch", 1 / 255, (0.0,), (1.0,))


def artifact(model: str = "m", version: int = 1, variant: str = STABLE, sha256: str = "") -> EngineArtifact:
    return EngineArtifact(
        model=model,
        version=version,
        variant=variant,
        runtime="onnxruntime",
        precision="fp32",
        recipe_digest="r",
        sha256=sha256 or f"{model}-{version}-{variant}",
        size_bytes=1,
        blob_key="content/x",
        batch_max=32,
        certificate=None,
        fingerprint=None,
        job=None,
        created_at=CREATED,
    )


def served(
    deployment: Deployment, labels: Sequence[str] = (), preprocessing: Preprocessing | None = None
) -> ServedModel:
    version = ModelVersion(
        deployment.model, deployment.version, "onnx", "s", 1, 17, (), (), CREATED, preprocessing=preprocessing
    )
    artifacts = {v: artifact(deployment.model, deployment.version, v) for v in deployment.variants}
    return ServedModel(version, deployment, artifacts, tuple(labels))


def deployment(version: int = 1, stable: str = STABLE, revision: int = 1, model: str = "m") -> Deployment:
    return Deployment(model, version, stable, revision=revision)


def with_canary(base: Deployment, canary: str, weight: int) -> Deployment:
    return replace(base, canary=canary, canary_weight=weight, revision=base.revision + 1)


def with_shadow(base: Deployment, shadow: str) -> Deployment:
    return replace(base, shadow=shadow, revision=base.revision + 1)


def write_linear(path: Path, factor: float = 1.0, features: int = 4, classes: int = 3) -> Path:
    """y [rows, classes] = x [rows, 1, 2, features / 2] flattened @ weights; row i of the weights is i * factor."""
    weights = np.outer(np.arange(features), np.arange(1, classes + 1)).astype(np.float32) * np.float32(factor)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1, 2, features // 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", classes])],
        [numpy_helper.from_array(weights, "w")],
    )
    return save(path, graph)


def write_identity(path: Path, types: dict[str, int], shape: Sequence[int | str] = ("rows", "n")) -> Path:
    """An output `<name>_out` for each input, passed through."""
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        "identity",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind in types.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, kind in types.items()],
    )
    return save(path, graph)


def save(path: Path, graph: onnx.GraphProto) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def loader_of(paths: dict[str, Path]) -> Callable[[EngineArtifact], Engine]:
    """Loads the file of an artifact's content digest."""
    return lambda wanted: load_engine(paths[wanted.sha256], wanted, threads=1)
