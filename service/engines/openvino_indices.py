"""Which integers a caller may send where OpenVINO looks them up in a table, for its CPU kernels check none of them.

Beyond the table a Gather answers zeros, as if it were right; GatherND and the scatters read and write the memory of
whatever lies there. ONNX Runtime refuses both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from service.engines.engine import Array
from service.errors import EngineFailed, InvalidTensor

# What is indexed at axes of its own: the place of the axis among the inputs; None where it is an attribute.
_BY_AXIS = {"Gather": 2, "GatherElements": None, "ScatterElementsUpdate": 3, "ScatterUpdate": 3}
# What is indexed at its first axes, by as many numbers as the last axis of the indices holds.
_BY_TUPLE = ("GatherND", "ScatterNDUpdate")
_HARMLESS = "Gather"
# These give each number on as it is.
_CARRIERS = frozenset({
    "Convert", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Broadcast", "Tile", "Slice", "StridedSlice", "Split",
    "VariadicSplit", "Concat", "Gather",
})  # fmt: skip
# What these give lies within what they were given, or does not depend on its values.
_SAFE = frozenset({"Constant", "ShapeOf", "TopK", "NonZero", "NonMaxSuppression", "Clamp"})


class Bounds(NamedTuple):
    """The least and the largest integer, both taken."""

    least: int
    most: int

    def check(self, name: str, values: Array) -> None:
        """Raises InvalidTensor naming the input `name` and the first strange value that it holds."""
        if values.size and (int(values.min()) < self.least or int(values.max()) > self.most):
            strange = values[(values < self.least) | (values > self.most)].reshape(-1)[0]
            raise InvalidTensor(
                f"input {name!r} holds {strange}, which is looked up in a table of {self.most + 1}; send {self.least} "
                f"to {self.most}"
            )


def index_bounds(model: Any) -> tuple[Bounds | None, ...]:
    """What each input of an openvino.Model may hold, in their order; None where no table says so.

    Raises EngineFailed where the place of a read or a write is computed from what a caller sends.
    """
    found: dict[str, Bounds] = {}
    for node, is_body in _nodes(model):
        kind = node.get_type_name()
        if kind not in _BY_AXIS and kind not in _BY_TUPLE:
            continue
        extent = _extent(node)
        for origin, carried in _origins(node.input_value(1)):
            if carried and extent is not None and not is_body:
                name, bounds = origin.get_friendly_name(), Bounds(-extent, extent - 1)
                known = found.get(name, bounds)
                found[name] = Bounds(max(known.least, bounds.least), min(known.most, bounds.most))
            elif kind != _HARMLESS:
                raise EngineFailed(
                    f"OpenVINO reads or writes at {node.get_friendly_name()!r} ({kind}) wherever what a caller sends "
                    "says, also outside of the tensor; use runtime onnxruntime"
                )
    return tuple(found.get(parameter.get_friendly_name()) for parameter in model.get_parameters())


def _nodes(model: Any) -> Iterator[tuple[Any, bool]]:
    """Every node, and whether it stands in a body of If, Loop or TensorIterator: its parameters are not the model's."""
    bodies = [(model, False)]
    while bodies:
        graph, is_body = bodies.pop()
        for node in graph.get_ordered_ops():
            yield node, is_body
            kind = node.get_type_name()
            if kind in ("Loop", "TensorIterator"):
                bodies.append((node.get_function(), True))
            elif kind == "If":
                bodies += [(node.get_function(number), True) for number in (0, 1)]


def _extent(node: Any) -> int | None:
    """How many places an index has to choose from; None where that is not known, or not the same for each."""
    kind, shape = node.get_type_name(), node.input_value(0).get_partial_shape()
    if shape.rank.is_dynamic:
        return None
    if kind in _BY_TUPLE:
        indices = node.input_value(1).get_partial_shape()
        if indices.rank.is_dynamic or not len(indices) or indices[len(indices) - 1].is_dynamic:
            return None
        first = node.get_attributes().get("batch_dims", 0)
        axes = range(first, first + indices[len(indices) - 1].get_length())
    else:
        axis = _axis(node, _BY_AXIS[kind])
        if axis is None:
            return None
        axes = range(axis % len(shape), axis % len(shape) + 1)
    extents = {None if shape[axis].is_dynamic else shape[axis].get_length() for axis in axes}
    return extents.pop() if len(extents) == 1 else None


def _axis(node: Any, place: int | None) -> int | None:
    if place is None:
        return int(node.get_attributes()["axis"])
    given = node.input_value(place).get_node()
    return int(given.get_data().reshape(-1)[0]) if given.get_type_name() == "Constant" else None


def _origins(output: Any) -> Iterator[tuple[Any, bool]]:
    """The parameters that an output's values depend on, each with whether its own numbers are carried there."""
    waiting, seen = [(output, True)], set()
    while waiting:
        value, carried = waiting.pop()
        node = value.get_node()
        kind = node.get_type_name()
        if (node.get_instance_id(), carried) in seen or kind in _SAFE:
            continue
        seen.add((node.get_instance_id(), carried))
        if kind == "Parameter":
            yield node, carried
            continue
        carries = carried and kind in _CARRIERS
        for place in range(node.get_input_size()):
            # Of what is carried only the first input is: the others say how.
            waiting.append((node.input_value(place), carries and (place == 0 or kind == "Concat")))
