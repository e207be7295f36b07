"""Inputs made up to run an engine with, before any caller's are there."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.domain.tensor import TensorSpec
from service.engines.engine import Array, Engine
from service.errors import DeviceFailed, EngineFailed, InvalidTensor, OctavoError

_log = logging.getLogger(__name__)
# What open axes are taken to be: all 1 where that runs, then what networks are commonly made for. Small
# maps vanish in convolutions without padding, odd ones do not come back to their size where a network goes down and up
# again, and some networks take one size alone, whatever their file says.
EXTENTS = (32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 416, 448, 512, 640, 1024)
# An axis that grows by what others hold, such as a mask over what a cache has and one more, is next to them.
_LONE_EXTENTS = (2, *EXTENTS)
_MAX_ROW_ELEMENTS = 2**21
_SEARCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sampler:
    """Makes batches for inputs like `specs`. Open axes but the batch are `extent` long, or only the one that `lone`
    names by its input and place, and the others 1.
    """

    specs: Sequence[TensorSpec]
    extent: int = 1
    lone: tuple[str, int] | None = None

    def zeros(self, rows: int) -> dict[str, Array]:
        """`rows` rows of zeros (empty bytes for BYTES)."""
        return {spec.name: self._filled(spec, rows) for spec in self.specs}

    def random(self, rows: int, seed: int) -> dict[str, Array]:
        """Rows that differ; integers stay 0 and 1, which every vocabulary and mask has. BYTES stay empty."""
        numbers = np.random.default_rng(seed)
        batch = self.zeros(rows)
        for name, array in batch.items():
            if array.dtype.kind == "f":
                batch[name] = numbers.random(array.shape).astype(array.dtype)
            elif array.dtype.kind in "iub":
                batch[name] = numbers.integers(0, 2, array.shape).astype(array.dtype)
        return batch

    def row_elements(self) -> int:
        """Of the largest input."""
        return max((math.prod(self._shape(spec, 1)) for spec in self.specs), default=0)

    def _filled(self, spec: TensorSpec, rows: int) -> Array:
        return np.full(self._shape(spec, rows), b"" if spec.datatype == "BYTES" else 0, dtype=spec.dtype)

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        shape = tuple(self._extent(spec, axis) if extent == -1 else extent for axis, extent in enumerate(spec.shape))
        return (rows, *shape[1:]) if spec.batched else shape

    def _extent(self, spec: TensorSpec, axis: int) -> int:
        return self.extent if self.lone in (None, (spec.name, axis)) else 1


def sampler_for(engine: Engine, clock: Callable[[], float] = time.monotonic) -> Sampler | None:
    """One whose single row the engine takes.

    None where it refuses the shapes of all that were tried, in bounds of time and size, or what they hold: it may still
    take a caller's. Raises DeviceFailed, and EngineFailed where the first failed of anything else and no other ran.
    """
    axes = [
        (spec.name, axis)
        for spec in engine.inputs
        for axis, extent in enumerate(spec.shape)
        if extent == -1 and not (axis == 0 and spec.batched)
    ]
    began = clock()
    shortest = Sampler(engine.inputs)
    refusal = _refusal(engine, shortest)
    if refusal is None:
        return shortest
    for sampler in _longer_samplers(engine.inputs, axes):
        if clock() - began > _SEARCH_SECONDS:
            break
        if sampler.row_elements() <= _MAX_ROW_ELEMENTS and _refusal(engine, sampler) is None:
            return sampler
    if isinstance(refusal, EngineFailed):
        raise refusal
    _log.warning("no row could be made up that this engine takes", extra={"reason": str(refusal)})
    return None


def _longer_samplers(specs: Sequence[TensorSpec], axes: Sequence[tuple[str, int]]) -> Iterator[Sampler]:
    """All open axes of one length, then each alone of another than the rest; nothing where no axis is open."""
    if axes:
        yield from (Sampler(specs, extent) for extent in EXTENTS)
    if len(axes) > 1:
        yield from (Sampler(specs, extent, axis) for extent in _LONE_EXTENTS for axis in axes)


def _refusal(engine: Engine, sampler: Sampler) -> OctavoError | None:
    try:
        engine.infer(sampler.zeros(1))
    except DeviceFailed:
        raise
    except (EngineFailed, InvalidTensor) as error:
        return error
    return None
