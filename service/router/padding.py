"""Brings requests of different lengths to a few common ones, so that they share batches, and their answers back.

Only what padding_proof proved on the engine is padded: that what is appended leaves the answers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.domain.batching import Padding
from service.domain.inference import Array, InferRequest
from service.router.batch import Outputs

Axes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Padder:
    """One engine's proven padding: the axes of each input that have the request's length, and those of each output."""

    padding: Padding
    inputs: Axes
    outputs: Axes

    def pad(self, request: InferRequest) -> tuple[InferRequest, Callable[[Outputs], Outputs] | None]:
        """The request in its bucket, and what cuts its outputs; as it came, with None, where nothing is padded."""
        length = self._length(request.inputs)
        bucket = self.padding.bucket(length) if length else None
        if length is None or bucket is None or bucket == length:
            return request, None
        values = dict(self.padding.values)
        padded = {
            name: padded_array(array, self.inputs[name], bucket, values.get(name, 0)) if name in self.inputs else array
            for name, array in request.inputs.items()
        }
        return request._replace(inputs=padded), partial(self.cut, length=length)

    def cut(self, outputs: Outputs, length: int) -> Outputs:
        """The outputs without what answers the padding."""
        return {name: self._cut(array, self.outputs.get(name, ()), length) for name, array in outputs.items()}

    @staticmethod
    def _cut(array: Array, axes: Sequence[int], length: int) -> Array:
        if not axes:
            return array
        return array[tuple(slice(length) if axis in axes else slice(None) for axis in range(array.ndim))]

    def _length(self, inputs: Mapping[str, Array]) -> int | None:
        """The extent that all variable axes share; None where they do not, or an input is not as it should be."""
        lengths: set[int] = set()
        for name, axes in self.inputs.items():
            array = inputs.get(name)
            if array is None or array.ndim <= axes[-1]:
                return None
            lengths.update(array.shape[axis] for axis in axes)
        return lengths.pop() if len(lengths) == 1 else None


def padded_array(array: Array, axes: Sequence[int], bucket: int, value: float) -> Array:
    """The array with `axes` brought to `bucket` by appending `value`; texts get none, or the number's digits."""
    shape = tuple(bucket if axis in axes else extent for axis, extent in enumerate(array.shape))
    fill: object = (b"" if value == 0 else str(value).encode()) if array.dtype == np.object_ else value
    padded = np.full(shape, fill, array.dtype)
    padded[tuple(slice(extent) for extent in array.shape)] = array
    return padded
