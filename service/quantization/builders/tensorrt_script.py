"""A script that builds the same engine by hand, with TensorRT and nothing of Octavo's."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.recipe import BatchProfile

_SCRIPT = """#!/usr/bin/env python3
# usage: build.py converted.onnx engine.plan
# converted.onnx lies beside the job's report in the store: jobs/JOB/converted.onnx
import sys
import {module} as trt

logger = trt.Logger(trt.Logger.VERBOSE)
builder = trt.Builder(logger)
strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
network = builder.create_network(0 if strong is None else 1 << int(strong))
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("\\n".join(str(parser.get_error(index)) for index in range(parser.num_errors)))
config = builder.create_builder_config()
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, {workspace})
config.clear_flag(trt.BuilderFlag.TF32)
for name in {flags}:
    config.set_flag(trt.BuilderFlag.__members__[name])
{targets}profile = builder.create_optimization_profile()
for index in range(network.num_inputs):
    fed = network.get_input(index)
    shapes = [[rows if extent < 0 else extent for extent in fed.shape] for rows in {rows}]
    profile.set_shape(fed.name, *shapes)
config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
if plan is None:
    sys.exit("no engine; see the log above")
with open(sys.argv[2], "wb") as file:
    file.write(plan)
"""
_TARGETS = """numbers = {numbers}
config.num_compute_capabilities = len(numbers)
for index, number in enumerate(numbers):
    config.set_compute_capability(trt.ComputeCapability(number), index)
"""


def reproduce_script(
    flavour: str, batch: BatchProfile, built: tuple[Sequence[str], Sequence[str]], workspace_bytes: int
) -> str:
    """Python source; `built` is (compute capabilities, names of the builder's flags).

    It takes the emitted graph, which is kept beside the job's report in the store.
    """
    targets, flags = built
    portable = flavour == "tensorrt_rtx"
    numbers = [int(target.replace(".", "")) for target in targets]
    return _SCRIPT.format(
        module="tensorrt_rtx_bindings" if portable else "tensorrt",
        workspace=workspace_bytes,
        flags=list(flags),
        targets=_TARGETS.format(numbers=numbers) if portable else "",
        rows=(batch.min, batch.opt, batch.max),
    )
