"""TensorRT engines of a benchmark: one optimization profile, TF32 only where it is the precision that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.errors import CannotMeasure
from service.engines.tensorrt_import import tensorrt_module

# Of a varying extent that is no row: MiniLM's words.
WORDS = 128


def build_plan(graph: Path, plan: Path, batches: tuple[int, ...], tf32: bool) -> Path:
    """Builds for `batches` rows, tuned for the largest. Raises CannotMeasure with TensorRT's own words."""
    trt = tensorrt_module()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise CannotMeasure(f"TensorRT does not take {graph}: {reasons}")
    config = builder.create_builder_config()
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(_profile(builder, network, batches))
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise CannotMeasure(f"TensorRT builds no engine of {graph}; its reason is above")
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(content)
    return plan


def _profile(builder: Any, network: Any, batches: tuple[int, ...]) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        fed = network.get_input(index)
        least, most = (shape_for(tuple(fed.shape), rows) for rows in (min(batches), max(batches)))
        profile.set_shape(fed.name, least, most, most)
    return profile


def shape_for(shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """`shape` with its open extents closed: the first is the rows, another one the words."""
    sizes = [rows if axis == 0 else WORDS for axis in range(len(shape))]
    return tuple(size if extent < 0 else extent for extent, size in zip(shape, sizes, strict=True))
