"""Proves on an engine that padding leaves its answers alone, before anything is padded for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.domain.batching import Padding
from service.domain.inference import Array
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.errors import InvalidInput
from service.router.padding import Axes, Padder, padded_array

# Kernels of another length add in another order; a value that the padding reached differs by far more.
_TOLERANCE = 0.02
# A caller's few bytes become so many at most, for each row and input.
_MAX_ROW_BYTES = 256 * 1024 * 1024


class _Probe(NamedTuple):
    """A request of `length` that is padded to `bucket`: of random values between `low` and `high`, and of integers
    above or below (`side` 1 or -1) what is appended to them.
    """

    length: int
    bucket: int
    low: float
    high: float
    side: int


def proven_padder(engine: Engine, padding: Padding) -> Padder:
    """Runs the engine with and without padding. Blocks. Raises InvalidInput where the answers are not the same."""
    inputs = {spec.name: _open_axes(spec) for spec in engine.inputs if _open_axes(spec)}
    if not inputs:
        raise InvalidInput("the model has no input with a variable dimension beside the batch; leave padding out")
    _check_values(engine.inputs, inputs, padding)
    _check_sizes(engine.inputs, inputs, padding.buckets[-1])
    proven: Padder | None = None
    for probe in _probes(engine, padding):
        padder = _proven_by(probe, engine, padding, inputs)
        if proven is not None and padder != proven:
            raise InvalidInput(
                f"which axes of the outputs follow the length is another for {probe.length} than for shorter requests: "
                "what the padding added cannot be told from the answer; leave padding out"
            )
        proven = padder
    assert proven is not None
    return proven


def _proven_by(probe: _Probe, engine: Engine, padding: Padding, inputs: Axes) -> Padder:
    values, lengths = dict(padding.values), (probe.length, probe.bucket)
    plain = _rows(engine.inputs, probe, values)
    padded = {
        name: padded_array(array, inputs[name], probe.bucket, values.get(name, 0)) if name in inputs else array
        for name, array in plain.items()
    }
    alone, together = _answer(engine, plain, probe.length), _answer(engine, padded, probe.bucket)
    axes = {name: _grown_axes(alone[name].shape, together[name].shape, lengths, name) for name in alone}
    padder = Padder(padding, inputs, {name: found for name, found in axes.items() if found})
    for name, array in padder.cut(together, probe.length).items():
        _check_same(name, alone[name], array, lengths)
    return padder


def _probes(engine: Engine, padding: Padding) -> list[_Probe]:
    """Half of each is padding: the more there is, the plainer its effect.

    A largest value hides what is appended below it, and a smallest one what is above: so values of either sign, too,
    and integers on either side of the padding, as far as the engine takes them.
    """
    first = next((bucket for bucket in padding.buckets if bucket > 1), 2)
    largest = max(first, padding.buckets[-1])
    probes = [_Probe(max(1, first // 2), first, -1, 0, side) for side in (1, -1)]
    values = dict(padding.values)
    # Where it takes neither, its words on the first refuse the padding.
    probes = [probe for probe in probes if _takes(engine, _rows(engine.inputs, probe, values))] or probes[:1]
    probes += [probes[0]._replace(low=low, high=1) for low in (0, -1)]
    # The engine may refuse what is longer than it was made for, or answer it in another way.
    return probes if largest == first else [*probes, probes[-1]._replace(length=largest // 2, bucket=largest)]


def _check_values(specs: Sequence[TensorSpec], inputs: Axes, padding: Padding) -> None:
    datatypes = {spec.name: spec for spec in specs if spec.name in inputs}
    for name, value in padding.values:
        if name not in datatypes:
            raise InvalidInput(
                f"padding.values names {name!r}, which is no input of a variable dimension; leave it out"
            )
        spec = datatypes[name]
        # Arrays of BF16 hold its raw words, of which only 0 is the number too.
        fits = value == 0 if spec.datatype == "BF16" else spec.datatype == "BYTES" or _has(spec.dtype, value)
        if not fits:
            raise InvalidInput(
                f"padding.values has {value!r} for {name!r}, which cannot be appended to {spec.datatype}; "
                "send a number that it can hold (0 for BF16), or leave it out"
            )


def _has(dtype: np.dtype[np.generic], value: float) -> bool:
    with np.errstate(all="ignore"):
        cast = float(np.float64(value).astype(dtype))
    return cast == value if dtype.kind in "iub" else bool(np.isfinite(cast))


def _check_sizes(specs: Sequence[TensorSpec], inputs: Axes, bucket: int) -> None:
    for spec in specs:
        axes = inputs.get(spec.name, ())
        extents = (bucket if axis in axes else extent for axis, extent in enumerate(spec.shape) if axis)
        size = spec.dtype.itemsize
        for extent in extents:
            size *= extent
        if axes and size > _MAX_ROW_BYTES:
            raise InvalidInput(
                f"a row of {spec.name!r} padded to {bucket} would take {size} bytes, and {_MAX_ROW_BYTES} is the most; "
                "choose smaller buckets"
            )


def _open_axes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(axis for axis, extent in enumerate(spec.shape) if axis and extent == -1)


def _rows(specs: Sequence[TensorSpec], probe: _Probe, values: Mapping[str, float]) -> dict[str, Array]:
    """One row. A mask is of 1, integers or floats; `values` has what is appended to an input, 0 where it has none."""
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for spec in specs:
        shape = tuple(
            (1 if axis == 0 else probe.length) if extent == -1 else extent for axis, extent in enumerate(spec.shape)
        )
        floats = np.asarray(random.uniform(probe.low, probe.high, shape), np.float32)
        mask = "mask" in spec.name.lower()
        if spec.datatype == "BYTES":
            arrays[spec.name] = np.full(shape, b"a", spec.dtype)
        elif spec.datatype == "BF16":
            arrays[spec.name] = (floats.view(np.uint32) >> 16).astype(np.uint16)
        elif mask:
            arrays[spec.name] = np.ones(shape, spec.dtype)
        elif spec.dtype.kind == "f":
            arrays[spec.name] = floats.astype(spec.dtype)
        else:
            arrays[spec.name] = np.full(shape, _beside(spec, values.get(spec.name, 0), probe.side), spec.dtype)
    return arrays


def _beside(spec: TensorSpec, value: float, side: int) -> int:
    """An integer far enough from `value` for a mean of the two to tell; on the other side where the datatype ends."""
    step = side * max(1, abs(int(value)) // 2)
    return int(value) + (step if _has(spec.dtype, int(value) + step) else -step)


def _takes(engine: Engine, inputs: dict[str, Array]) -> bool:
    """Whether it answers with numbers. What it cannot do with such integers, it cannot do for a caller either."""
    try:
        answer = engine.infer(inputs)
    except Exception:  # noqa: BLE001 (whatever a runtime raises at an index out of range)
        return False
    return all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in answer.values())


def _answer(engine: Engine, inputs: dict[str, Array], length: int) -> dict[str, Array]:
    try:
        return engine.infer(inputs)
    except Exception as error:
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
