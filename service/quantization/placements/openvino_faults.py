"""Operators that OpenVINO computes wrongly in INT8, some of them on some CPUs: they stay in floating point on all."""

from __future__ import annotations

from onnx import NodeProto

from service.quantization.graphs.graph import Graph, attribute

_TILE_BYTES = 64
_CHANNELS_OF_OWN_TILES = 32
_LANES = 16
_ENDLESS_TAPS = 14


def fault_in_int8(node: NodeProto, graph: Graph) -> str | None:
    """Why this weighted operator would be computed wrongly in INT8 on some CPU, or None where it would not."""
    if node.op_type != "Conv":
        return None
    shape = graph.constants[node.input[1]].dims
    return _miscounted(shape[1], shape[-1]) or _endless(node, shape[0], shape[-1])


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
