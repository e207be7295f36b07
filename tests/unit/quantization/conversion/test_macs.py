"""Multiply-accumulates follow from shapes, for one row."""

from __future__ import annotations

import numpy as np
from onnx import helper

from service.quantization.conversion.macs import multiply_accumulates
from service.quantization.graphs.graph import Graph
from tests.unit.quantization.small_models import classifier, model_of, value


def test_a_classifiers_layers_are_counted_by_hand() -> None:
    assert multiply_accumulates(Graph(classifier())) == {
        "stem": 8 * 8 * 8 * 27,
        "dw": 8 * 8 * 8 * 9,
        "pw": 8 * 8 * 8 * 8,
        "head": 4 * 8,
    }


def test_a_product_of_sequences_counts_every_place_and_unknown_axes_as_one() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    weight = {"w": np.ones((6, 10), np.float32)}
    known = model_of([node], [value("x", ("n", 5, 6))], [value("y", None)], weight)
    assert multiply_accumulates(Graph(known)) == {"mm": 5 * 6 * 10}
    unknown = model_of([node], [value("x", ("n", "length", 6))], [value("y", None)], weight)
    assert multiply_accumulates(Graph(unknown)) == {"mm": 6 * 10}


def test_products_of_two_activations_count_for_nothing() -> None:
    node = helper.make_node("MatMul", ["x", "x"], ["y"], "mm")
    model = model_of([node], [value("x", ("n", 4, 4))], [value("y", None)])
    assert multiply_accumulates(Graph(model)) == {}
