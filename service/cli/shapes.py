"""What a command reads of the server's answers: an answer of another shape is no answer of Octavo's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

# A type; fields of an object, one that is missing being None; a list's elements in a list; alternatives in a tuple.
Shape: TypeAlias = "type | Mapping[str, Shape] | list[Shape] | tuple[Shape, ...] | None"

NUMBER: Shape = (int, float)
_ROUTE: Shape = {"variant": str}

_TENSORS: Shape = (None, [{"name": str, "datatype": str, "shape": list}])
MODEL_VERSION: Shape = {"name": str, "version": int, "inputs": _TENSORS, "outputs": _TENSORS}
DATASET: Shape = {"name": str, "rows": int, "warnings": (None, [str])}
JOB: Shape = {
    "id": str,
    "model": str,
    "version": int,
    "state": str,
    "progress": (None, int, float),
    "attempt": (None, int),
    "stages": (None, [{"name": str, "state": str, "seconds": (None, int, float)}]),
    "result": (None, {"certificate": (None, dict), "deployment_error": (None, {"error": str})}),
}
JOBS: Shape = {"jobs": [JOB], "next": (None, str)}
DEPLOYMENT: Shape = {
    "version": int,
    "stable": _ROUTE,
    "canary": (None, {"variant": str, "weight": (None, int)}),
    "shadow": (None, _ROUTE),
}
ENGINES: Shape = {"engines": [{"certificate": (None, dict)}]}
BATCHING: Shape = {"padding": (None, dict)}
INDEX: Shape = [{"name": str, "reason": (None, str)}]
PREDICTION: Shape = {"predictions": [{"index": int, "score": NUMBER}]}
REPORT: Shape = {
    "metrics": (None, dict),
    "outputs": (None, [dict]),
    "reference": (None, {"latency": (None, [dict])}),
    "warnings": (None, [str]),
}
INFERENCE: Shape = {
    "outputs": [{"name": str, "datatype": str, "shape": [int], "parameters": (None, dict)}],
    "parameters": (None, dict),
}


def fits(value: Any, shape: Shape) -> bool:
    """Whether the JSON value has what `shape` names; an object may have more."""
    match shape:
        case None:
            return value is None
        case type():
            return isinstance(value, shape)
        case tuple():
            return any(fits(value, each) for each in shape)
        case list():
            return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    return isinstance(value, dict) and all(fits(value.get(name), field) for name, field in shape.items())
