"""Runs a quantized graph as it is written, operator by operator in floating point: no fusion, no integer kernel.

What a plan costs by itself is seen here; what the runtime's kernels add to that is the rest of an engine's loss.
"""

from __future__ import annotations

import onnxruntime as ort
from onnx import ModelProto

from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import EngineFailed


def simulated(model: ModelProto, threads: int) -> OnnxRuntimeEngine:
    """An engine of the graph with its Q/DQ nodes computed as they stand. Raises EngineFailed in the runtime's words."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineFailed(f"the quantized graph cannot be simulated: {error}; check the model") from error
    return OnnxRuntimeEngine(session)
