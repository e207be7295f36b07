"""Builds an engine with TensorRT-RTX, which needs no GPU for that; tests are skipped where it is not installed.

`compiles` asks TensorRT alone, past everything that Octavo would refuse beforehand.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from onnx import ModelProto

from service.domain.recipe import BatchProfile
from service.engines.tensorrt_import import tensorrt_module
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


def compiles(model: ModelProto) -> bool:
    """Whether TensorRT's own parser and builder take the graph; unknown extents are 1."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    trt = tensorrt_module()
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, logger).parse(model.SerializeToString()):
        return False
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        fed = network.get_input(index)
        profile.set_shape(fed.name, *[[1 if extent < 0 else extent for extent in fed.shape]] * 3)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None
