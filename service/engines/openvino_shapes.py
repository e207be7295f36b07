"""Shapes that must not reach OpenVINO's CPU device, for it would not merely refuse them.

A product with weights reads as far as these reach: a row that is shorter is read beyond its end, into whatever memory
lies there. And a run that failed of its shapes leaves the compiled graph half changed, so that the next one of the last
good shape fails too, whoever sent it. A graph with open axes is therefore tried on each new shape before it runs on it,
without computing anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.openvino_import import openvino as ov
from service.engines.openvino_import import opset
from service.engines.refused_shapes import refusal

# Shapes that are remembered as good; trying one again takes milliseconds.
_KNOWN = 16384
# What shapes follow from is shorter, such as the scales of a resizing.
_SMALL = 64
_OF_SHAPES = ("i32", "i64")


class TriedShapes:
    """The shapes that a graph was found to take. Thread-safe: a shape that is tried twice is tried alike."""

    def __init__(self, model: ov.Model) -> None:
        self.model = model
        self._good: set[tuple[tuple[int, ...], ...]] = set()

    def check(self, specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> None:
        """`specs` in the order of the graph's inputs. Raises InvalidTensor naming the shapes that came."""
        shapes = tuple(inputs[spec.name].shape for spec in specs)
        if shapes in self._good:
            return
        try:
            self.model.clone().reshape({index: ov.PartialShape(list(shape)) for index, shape in enumerate(shapes)})
        except Exception as error:
            raise refusal(inputs, last_words(error)) from error
        if len(self._good) >= _KNOWN:
            self._good.clear()
        self._good.add(shapes)


def tried_shapes(model: ov.Model) -> TriedShapes | None:
    """None for a graph of which a number of rows is all that varies: that fits, or its shapes are refused before."""
    vary = any(extent.is_dynamic for port in model.inputs for extent in list(port.get_partial_shape())[1:])
    needed = vary or any(_reaches_openly(op) for op in model.get_ops() if op.get_type_name() == "MatMul")
    return TriedShapes(_without_weights(model)) if needed else None


def last_words(error: Exception) -> str:
    """OpenVINO's message without the places in its source and the checks there that come before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _without_weights(model: ov.Model) -> ov.Model:
    """A graph of the same shapes that holds no memory to speak of: large constants are inputs behind its own."""
    light = model.clone()
    for op in light.get_ops():
        if op.get_type_name() == "Constant" and _size(op) > _SMALL and _kind(op) not in _OF_SHAPES:
            stand_in = opset.parameter(op.get_output_shape(0), op.get_output_element_type(0))
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(stand_in.output(0))
            light.add_parameters([stand_in])
    return light


def _kind(constant: ov.Node) -> str:
    return str(constant.get_output_element_type(0).get_type_name())


def _size(constant: ov.Node) -> int:
    return prod(constant.get_output_shape(0))


def _reaches_openly(product: ov.Node) -> bool:
    """Whether of the axes that a MatMul sums over one alone is open: a first axis that is no batch may end there."""
    shapes = [product.get_input_partial_shape(index) for index in (0, 1)]
    if any(shape.rank.is_dynamic for shape in shapes):
        return True
    stated = product.get_attributes()
    # A vector's one axis is the one summed over, whatever is transposed.
    first = -2 if stated["transpose_a"] and len(shapes[0]) > 1 else -1
    second = -1 if stated["transpose_b"] or len(shapes[1]) == 1 else -2
    return bool(shapes[0][first].is_dynamic != shapes[1][second].is_dynamic)
