"""Tensor specifications and the Open Inference Protocol's datatypes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# The protocol's datatypes that a numpy array can hold as they are. BF16 travels as raw 16-bit words.
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}
DATATYPES = frozenset(NUMPY_TYPES)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of a model's input or output; -1 marks a dimension that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return NUMPY_TYPES[self.datatype]

    @property
    def batched(self) -> bool:
        """Whether the first axis is the batch: it varies."""
        return bool(self.shape) and self.shape[0] == -1

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: without the batch axis where there is one."""
        return self.shape[1:] if self.batched else self.shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a concrete shape fits, -1 matching any extent."""
        return len(shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> TensorSpec:
        return TensorSpec(value["name"], value["datatype"], tuple(value["shape"]))


def element_count(shape: tuple[int, ...]) -> int:
    """How many elements a concrete shape holds; 1 for a scalar."""
    return math.prod(shape)
