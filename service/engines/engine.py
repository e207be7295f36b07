"""What every loaded engine can do, whatever runtime is behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt

from service.domain.tensor import TensorSpec

Array = npt.NDArray[Any]


class Engine(Protocol):
    """A loaded engine. Several threads may infer at once; warmed up by the router before it serves."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Runs one batch. Arrays have the spec's dtype and shape, C-contiguous; `outputs` None means all.

        Raises EngineFailed with the runtime's own words, InvalidTensor for values that it cannot take.
        """
        ...

    def close(self) -> None:
        """Gives the memory back; the engine is not used again."""
        ...


@runtime_checkable
class Laned(Protocol):
    """An engine that runs batches beside each other on parts of its own, of which each has a slow first run."""

    def warm_lanes(self, inputs: Mapping[str, Array]) -> None:
        """Runs one batch on all of them, so that no caller meets a first run. Raises as `infer` does."""
        ...


@runtime_checkable
class Compiling(Protocol):
    """An engine that may compile for the device when it runs, and keep that for the next load."""

    def keep_compiled(self) -> None:
        """Stores what was compiled so far; that it could not be stored is logged. Raises as `infer` does."""
        ...
