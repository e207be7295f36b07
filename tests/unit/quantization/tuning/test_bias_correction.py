"""Channel means of a quantized graph come back to those of the float one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.quantization.graphs.graph import Graph
from service.quantization.placements.onnxruntime import place
from service.quantization.tuning.bias_correction import Corrected, corrected
from service.quantization.tuning.layer import Layer, rewritten
from tests.unit.quantization.int8 import run
from tests.unit.quantization.small_models import classifier, images


def test_means_are_restored_operator_after_operator(tmp_path: Path) -> None:
    graph = Graph(classifier())
    biased = {"dw.b": np.full(8, 0.3), "pw.b": np.full(8, -0.2), "head.b": np.full(4, 1.0)}
    shifted = rewritten(graph, {name: np.asarray(graph.constant(name)) + by for name, by in biased.items()})
    rows = {"x": images(32)}
    layers = [Layer.of(graph, operator) for operator in place(graph, ()).weighted]
    parts = Corrected(graph.model, lambda changed: changed.model, [rows], 1)
    found = corrected(shifted, layers, parts, lambda share: True)
    means = [run(model, rows, tmp_path)["scores"].mean(axis=0) for model in (graph.model, found.model)]
    np.testing.assert_allclose(means[1], means[0], atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.constant("dw.b")), np.asarray(graph.constant("dw.b")), atol=1e-4)


def test_without_time_nothing_is_changed() -> None:
    graph = Graph(classifier())
    layers = [Layer.of(graph, operator) for operator in place(graph, ()).weighted]
    parts = Corrected(graph.model, lambda changed: changed.model, [{"x": images(4)}], 1)
    assert corrected(graph, layers, parts, lambda share: False) is graph
