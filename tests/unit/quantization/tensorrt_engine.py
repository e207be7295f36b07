"""Builds an engine with TensorRT-RTX, which needs no GPU for that; tests are skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from onnx import ModelProto

from service.domain.recipe import BatchProfile
from service.quantization.builders.builder import BuildOptions, builder_for
from tests.unit.quantization.small_models import saved

BATCH = BatchProfile(1, 4, 8)


def build_engine(model: ModelProto) -> dict[str, Any]:
    """What the build tells; the batch may be 1 to 8. Fails with the runtime's own words."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    with TemporaryDirectory() as folder:
        converted, plan = saved(model, Path(folder) / "converted.onnx"), Path(folder) / "engine.plan"
        notes = builder_for("tensorrt").build(converted, plan, BuildOptions(1, BATCH))
        assert plan.stat().st_size > 0
        return notes
