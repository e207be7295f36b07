"""Builds an engine with TensorRT-RTX, which needs no GPU for that; tests are skipped where it is not installed."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import ModelProto

LARGEST_BATCH = 8


def build_engine(model: ModelProto) -> bytes:
    """The engine of a strongly typed network; unknown extents may be 1 to 8. Fails with the runtime's own words."""
    tensorrt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        raise AssertionError([str(parser.get_error(index)) for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.add_optimization_profile(_profile(builder, network))
    engine = builder.build_serialized_network(network, config)
    assert engine is not None, "the parser took the graph, and the builder gave no engine"
    return bytes(engine)


def _profile(builder: Any, network: Any) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        fed = network.get_input(index)
        extents = [[size if extent < 0 else extent for extent in fed.shape] for size in (1, 4, LARGEST_BATCH)]
        profile.set_shape(fed.name, *extents)
    return profile
