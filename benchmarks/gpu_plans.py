"""TensorRT engines of a benchmark: one optimization profile, TF32 only where it is the precision that is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.errors import CannotMeasure
from service.engines.tensorrt_import import tensorrt_module
from service.engines.tensorrt_log import RuntimeLog, listening, process_logger
from service.quantization.builders.tensorrt_flags import flags_of, set_flags
from service.quantization.builders.tensorrt_targets import set_targets

# Of a varying extent that is no row: MiniLM's words.
WORDS = 128
# The smallest and the largest of rows, or of another varying extent.
Range = tuple[int, int]


def build_plan(graph: Path, plan: Path, batches: tuple[int, ...], tf32: bool, extents: Range = (WORDS, WORDS)) -> Path:
    """Builds for `batches` rows and, where more than the rows varies, for `extents`; tuned for the largest.

    Raises CannotMeasure with TensorRT's own words.
    """
    trt, log = tensorrt_module(), RuntimeLog()
    with listening(log.take):
        content = _built(trt, graph, ((min(batches), max(batches)), extents), tf32)
    if content is None:
        raise CannotMeasure(f"TensorRT builds no engine of {graph}: {log.words()}")
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(content)
    return plan


def _built(trt: Any, graph: Path, ranges: tuple[Range, Range], tf32: bool) -> Any:
    builder = trt.Builder(process_logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, process_logger(trt))
    if not parser.parse(graph.read_bytes()):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise CannotMeasure(f"TensorRT does not take {graph}: {reasons}")
    config = builder.create_builder_config()
    # As served engines are built: none of these networks has shapes that the data tell.
    set_flags(trt, config, flags_of(trt, "fixed", sparse=False))
    if tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    # Left to itself TensorRT-RTX compiles for some kinds of GPU, and this one need not be among them.
    set_targets(trt, config, this_gpu=True)
    config.add_optimization_profile(profile_of(builder, network, *ranges))
    return builder.build_serialized_network(network, config)


def profile_of(builder: Any, network: Any, rows: Range, extents: Range) -> Any:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        fed = network.get_input(index)
        least, most = (shape_for(tuple(fed.shape), *sizes) for sizes in zip(rows, extents, strict=True))
        profile.set_shape(fed.name, least, most, most)
    return profile


def shape_for(shape: tuple[int, ...], rows: int, extent: int = WORDS) -> tuple[int, ...]:
    """`shape` with its open extents closed: the first is the rows, every other one `extent`."""
    sizes = [rows if axis == 0 else extent for axis in range(len(shape))]
    return tuple(size if extent < 0 else extent for extent, size in zip(shape, sizes, strict=True))
