"""Operators that OpenVINO computes wrongly in INT8, some of them on some CPUs: they stay in floating point on all."""

from __future__ import annotations

from onnx import NodeProto

from service.quantization.graphs.graph import Graph, attribute
from service.quantization.placements.placement import WEIGHTED

_TILE_BYTES = 64
_CHANNELS_OF_OWN_TILES = 32
_LANES = 16
_ENDLESS_TAPS = 14
_EXTREMA = frozenset({"ReduceMax", "ReduceMin", "GlobalMaxPool"})
# Behind these an extremum is right, as tried: they have kernels of their own, in which the rounding stays. What else
# stands between, the device may compute in the reduction's kernel, or carry the rounding past.
_STOPS = WEIGHTED | frozenset({
    "AveragePool", "CumSum", "Einsum", "Expand", "GlobalAveragePool", "GroupNormalization", "GRU", "Hardmax",
    "InstanceNormalization", "LayerNormalization", "LogSoftmax", "LpNormalization", "LpPool", "LRN", "LSTM",
    "MeanVarianceNormalization", "Pad", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Resize", "RNN", "Slice", "Softmax", "Split", "Tile", "TopK", "Where",
})  # fmt: skip


def fault_in_int8(node: NodeProto, graph: Graph) -> str | None:
    """Why this weighted operator would be computed wrongly in INT8 on some CPU, or None where it would not."""
    extremum = _extremum(node.input[0], graph)
    if extremum is not None:
        return f"INT8 values are rounded and clipped while {extremum.name!r} ({extremum.op_type}) still compares them"
    if node.op_type != "Conv":
        return None
    shape = graph.constants[node.input[1]].dims
    return _miscounted(shape[1], shape[-1]) or _endless(node, shape[0], shape[-1])


def _extremum(tensor: str, graph: Graph) -> NodeProto | None:
    """What looks for the largest or smallest values of which this tensor is made, or None.

    Tried with OpenVINO 2026.4: a reduction that rounds to 8 bits rounds what it has found so far and goes on with that.
    """
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        maker = graph.producer.get(name)
        if maker is None or name in seen:
            continue
        seen.add(name)
        if maker.op_type in _EXTREMA:
            return maker
        sources = [source for source in maker.input if source not in graph.constants and graph.is_float(source)]
        # Two of them are joined in a kernel of its own, unless each is rounded by itself.
        if maker.op_type not in _STOPS and (len(sources) == 1 or maker.op_type == "Concat"):
            waiting += sources
    return None


def _miscounted(channels: int, taps: int) -> str | None:
    """Tried with OpenVINO 2026.4 and AMX: it loads a row of the kernel, all input channels of each tap, into tiles of
    64 bytes; where few channels fill several tiles exactly, the answers are noise.
    """
    row = channels * taps
    if channels % 4 or channels >= _CHANNELS_OF_OWN_TILES or row % _TILE_BYTES or row == _TILE_BYTES:
        return None
    return f"INT8 kernels of CPUs with AMX miscount rows of {taps} taps over {channels} channels"


def _endless(node: NodeProto, channels: int, taps: int) -> str | None:
    """Tried with OpenVINO 2026.4 and VNNI: over one full vector of channels, each on its own, with a stride of 1 along
    rows of 32 positions and more, the first run never ends.
    """
    strides = attribute(node, "strides", (1,))
    if channels != _LANES or attribute(node, "group", 1) != channels or taps < _ENDLESS_TAPS or strides[-1] != 1:
        return None
    return f"INT8 kernels of CPUs with VNNI never end on {taps} taps over {channels} separate channels"
