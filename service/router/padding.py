"""Brings requests of different lengths to a few common ones, so that they share batches, and their answers back.

Only what was proven on the engine is padded: that what is appended leaves the answers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from service.domain.batching import Padding
from service.domain.inference import Array, InferRequest
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.errors import InvalidInput, OctavoError
from service.router.batch import Outputs

# Kernels of another length add in another order; a value that the padding reached differs by far more.
_TOLERANCE = 0.02
_Axes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Padder:
    """One engine's proven padding: the axes of each input that have the request's length, and those of each output."""

    padding: Padding
    inputs: _Axes
    outputs: _Axes

    def pad(self, request: InferRequest) -> tuple[InferRequest, Callable[[Outputs], Outputs] | None]:
        """The request in its bucket, and what cuts its outputs; as it came, with None, where nothing is padded."""
        length = self._length(request.inputs)
        bucket = self.padding.bucket(length) if length else None
        if length is None or bucket is None or bucket == length:
            return request, None
        values = dict(self.padding.values)
        padded = {
            name: _padded(array, self.inputs[name], bucket, values.get(name, 0)) if name in self.inputs else array
            for name, array in request.inputs.items()
        }
        # Notes of who admitted other requests of this head hold for the same bucket: the head tells the length.
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


def proven_padder(engine: Engine, padding: Padding) -> Padder:
    """Runs the engine with and without padding. Blocks. Raises InvalidInput where the answers are not the same."""
    inputs = {spec.name: _open_axes(spec) for spec in engine.inputs if _open_axes(spec)}
    unknown = sorted(name for name, _ in padding.values if name not in inputs)
    if unknown:
        raise InvalidInput(
            f"padding.values names {unknown[0]!r}, which is no input of a variable dimension; leave it out"
        )
    if not inputs:
        raise InvalidInput("the model has no input with a variable dimension beside the batch; leave padding out")
    length, bucket = _lengths(padding)
    plain = InferRequest(_rows(engine.inputs, length))
    padded = {
        name: _padded(array, inputs[name], bucket, dict(padding.values).get(name, 0)) if name in inputs else array
        for name, array in plain.inputs.items()
    }
    alone, together = _answer(engine, plain.inputs, length), _answer(engine, padded, bucket)
    axes = {name: _grown_axes(alone[name].shape, together[name].shape, (length, bucket), name) for name in alone}
    proven = Padder(padding, inputs, {name: found for name, found in axes.items() if found})
    for name, array in proven.cut(together, length).items():
        _check_same(name, alone[name], array, (length, bucket))
    return proven


def _open_axes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis, extent in enumerate(spec.shape) if axis and extent == -1)


def _lengths(padding: Padding) -> tuple[int, int]:
    """A length and its bucket, half of it padding: the more there is, the plainer its effect."""
    bucket = next((bucket for bucket in padding.buckets if bucket > 1), 2)
    return max(1, bucket // 2), bucket


def _rows(specs: Sequence[TensorSpec], length: int) -> dict[str, Array]:
    """One row of random values; integers are 1, which every vocabulary and mask has."""
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for spec in specs:
        shape = tuple(
            (1 if axis == 0 else length) if extent == -1 else extent for axis, extent in enumerate(spec.shape)
        )
        if spec.datatype == "BYTES":
            arrays[spec.name] = np.full(shape, b"a", spec.dtype)
        elif spec.dtype.kind == "f":
            arrays[spec.name] = random.random(shape).astype(spec.dtype)
        else:
            arrays[spec.name] = np.ones(shape, spec.dtype)
    return arrays


def _padded(array: Array, axes: Sequence[int], bucket: int, value: float) -> Array:
    shape = tuple(bucket if axis in axes else extent for axis, extent in enumerate(array.shape))
    fill: object = (b"" if value == 0 else str(value).encode()) if array.dtype == np.object_ else value
    padded = np.full(shape, fill, array.dtype)
    padded[tuple(slice(extent) for extent in array.shape)] = array
    return padded


def _answer(engine: Engine, inputs: Mapping[str, Array], length: int) -> dict[str, Array]:
    try:
        return engine.infer(inputs)
    except OctavoError as error:
        raise InvalidInput(
            f"the engine cannot run a request of length {length}, so padding cannot be proven: {error}; "
            "choose other buckets, or leave padding out"
        ) from error


def _grown_axes(
    alone: tuple[int, ...], together: tuple[int, ...], lengths: tuple[int, int], name: str
) -> tuple[int, ...]:
    """The axes of an output that follow the length. Raises InvalidInput where one follows it in another way."""
    grown = tuple(axis for axis, (one, two) in enumerate(zip(alone, together, strict=False)) if one != two)
    if len(alone) != len(together) or any((alone[axis], together[axis]) != lengths for axis in grown):
        raise InvalidInput(
            f"output {name!r} has shape {list(alone)} for length {lengths[0]} and {list(together)} for {lengths[1]}: "
            "what the padding added cannot be told from the answer; leave padding out"
        )
    return grown


def _check_same(name: str, alone: Array, cut: Array, lengths: tuple[int, int]) -> None:
    if alone.dtype.kind != "f":
        same, distance = bool(np.array_equal(alone, cut)), 1.0
    else:
        scale = float(np.max(np.abs(alone), initial=0.0)) + 1e-6
        distance = float(np.max(np.abs(alone - cut), initial=0.0)) / scale
        same = distance <= _TOLERANCE
    if not same:
        raise InvalidInput(
            f"padding changes the answers: output {name!r} of a request of length {lengths[0]} padded to {lengths[1]} "
            f"differs by {distance:.0%} of its largest value; give the model a mask input and its padding.values, "
            "or leave padding out"
        )
