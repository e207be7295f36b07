"""Inputs made up to run an engine with, before any caller's are there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from service.domain.tensor import TensorSpec
from service.engines.engine import Array, Engine
from service.errors import DeviceFailed, EngineFailed, InvalidTensor, OctavoError

# What an open axis behind the batch is taken to be: 1 where that runs, then what networks are commonly made for. Small
# maps vanish in convolutions without padding, odd ones do not come back to their size where a network goes down and up
# again, and some networks take one size alone, whatever their file says.
EXTENTS = (1, 32, 64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 416, 448, 512, 640, 1024)
_MAX_ROW_ELEMENTS = 2**21
_SEARCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sampler:
    """Makes batches for inputs like `specs`, each open axis behind the batch `extent` long."""

    specs: Sequence[TensorSpec]
    extent: int = 1

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
        shape = tuple(self.extent if extent == -1 else extent for extent in spec.shape)
        return (rows, *shape[1:]) if spec.batched else shape


def sampler_for(engine: Engine, clock: Callable[[], float] = time.monotonic) -> Sampler:
    """With the first of EXTENTS at which one row runs. An engine without open axes behind the batch is not run.

    Raises what the run at 1 raised, EngineFailed or InvalidTensor, where it runs at none: axes that belong together,
    such as a cache's and a mask's, are not guessed. DeviceFailed at once.
    """
    first = Sampler(engine.inputs)
    if not any(-1 in spec.row_shape for spec in engine.inputs):
        return first
    began, refusal = clock(), _refusal(engine, first)
    if refusal is None:
        return first
    for extent in EXTENTS[1:]:
        sampler = Sampler(engine.inputs, extent)
        if sampler.row_elements() > _MAX_ROW_ELEMENTS or clock() - began > _SEARCH_SECONDS:
            break
        if _refusal(engine, sampler) is None:
            return sampler
    raise refusal


def _refusal(engine: Engine, sampler: Sampler) -> OctavoError | None:
    try:
        engine.infer(sampler.zeros(1))
    except DeviceFailed:
        raise
    except (EngineFailed, InvalidTensor) as error:
        return error
    return None
