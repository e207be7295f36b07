"""What passes through the router: one request's tensors, and its answer. Tuples, for one of each is made a request."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class InferRequest(NamedTuple):
    """Decoded input arrays by name, each with the datatype its sender declared (none: the array's own).

    `outputs` None means all. `timeout_seconds` counts from the moment the request is queued. `priority` 1 goes first, 0
    is the model's default. `admitted` is shared by requests that differ in their values only: whoever checked one of
    them notes rows and batch key for the others.
    """

    inputs: Mapping[str, Array]
    datatypes: Mapping[str, str] = {}
    outputs: tuple[str, ...] | None = None
    variant: str | None = None
    timeout_seconds: float | None = None
    admitted: dict[Hashable, tuple[int, object]] | None = None
    priority: int = 0


class InferResult(NamedTuple):
    """Output arrays by name, and which variant answered by which route after how long."""

    outputs: dict[str, Array]
    variant: str
    version: int
    route: str
    queue_us: int
    compute_us: int
