"""Inspects a model as an upload is inspected, in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnx import ModelProto

from service.quantization.graphs.inspection import inspect_model


def inspect(folder: Path, model: ModelProto | bytes) -> dict[str, Any]:
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return inspect_model({"path": str(path)}, lambda fraction: None)
