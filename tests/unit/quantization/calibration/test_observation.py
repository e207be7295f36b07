"""Observation sees every value of every chosen tensor once, a few rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization.calibration import observation
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.observation import (
    ObservedModel,
    Values,
    Watch,
    multiplied,
    observable,
    observe,
    observe_into,
)
from service.quantization.data.rows import Array, Feed, Rows
from service.quantization.graphs.graph import Graph
from tests.unit.quantization.small_models import classifier, images, model_of, relu_model, saved, value

TENSORS = ("x", "c", "e", "scores")


def feed_of(rows: Array, path: Path) -> Feed:
    return Feed.of(Rows("calibration", {"x": rows}, None), OnnxRuntimeEngine.load(path, 1).inputs)


def test_histograms_hold_exactly_the_values_that_the_model_makes(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    rows = images(10)
    found = observe(ObservedModel(path, TENSORS, 1), feed_of(rows, path), 100, lambda fraction: None)
    model = onnx.load_model(path)
    del model.graph.output[:]
    model.graph.output.extend([value(name, None) for name in TENSORS[1:]])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip(TENSORS, [rows, *session.run(None, {"x": rows})], strict=True))
    for name in TENSORS:
        assert found[name].total + found[name].zeros == expected[name].size
        assert found[name].minimum == pytest.approx(expected[name].min(), rel=1e-5)
        assert found[name].maximum == pytest.approx(expected[name].max(), rel=1e-5)


def test_only_the_wanted_rows_are_seen_and_progress_rises_to_one(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    seen: list[float] = []
    found = observe(ObservedModel(path, ("x",), 1), feed_of(images(100), path), 70, seen.append)
    assert found["x"].total + found["x"].zeros == 70 * 3 * 8 * 8
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_large_tensors_are_taken_in_fewer_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    row_bytes = 3 * 8 * 8 * 4 + 8 * 8 * 8 * 4
    monkeypatch.setattr(observation, "_BATCH_BYTES", row_bytes * 3)
    taken: list[int] = []
    observed = ObservedModel(path, ("x", "c"), 1)
    run = observed.run

    def logged(batch: dict[str, Array]) -> Values:
        taken.append(len(batch["x"]))
        return run(batch)

    monkeypatch.setattr(observed, "run", logged)
    observe(observed, feed_of(images(10), path), 10, lambda fraction: None)
    assert taken == [1, 3, 3, 3, 1]


def test_a_tensor_that_overflows_names_itself_and_the_rows(tmp_path: Path) -> None:
    path = saved(relu_model(), tmp_path / "m.onnx")
    rows = np.ones((40, 4), np.float32)
    rows[35, 2] = np.inf
    with pytest.raises(StageFailed, match="tensor 'y' is NaN or infinite within rows 32 to 39"):
        observe(ObservedModel(path, ("y",), 1), feed_of(rows, path), 40, lambda fraction: None)


def test_every_float_activation_is_observable_and_views_show_the_values_of_another(tmp_path: Path) -> None:
    tensors, aliases = observable(Graph.load(saved(classifier(), tmp_path / "m.onnx")))
    assert tensors == ("x", "a", "b", "c", "d", "e", "f", "g", "h", "scores")
    assert aliases == {"i": "h"}


def test_views_of_views_show_the_first_and_integers_are_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("Identity", ["t"], ["u"]),
        helper.make_node("Shape", ["u"], ["n"]),
        helper.make_node("Neg", ["u"], ["y"]),
    ]
    outputs = [value("y", None), value("n", [2], TensorProto.INT64)]
    tensors, aliases = observable(Graph(model_of(nodes, [value("x", ("batch", 4))], outputs)))
    assert tensors == ("x", "y")
    assert aliases == {"t": "x", "u": "x"}


def test_only_what_weights_multiply_must_stay_finite(tmp_path: Path) -> None:
    graph = Graph.load(saved(classifier(), tmp_path / "m.onnx"))
    assert multiplied(graph, ()) == {"x", "a", "c", "d", "e", "f", "i", "scores"}
    assert multiplied(graph, ("dw", "op:Gemm")) == {"x", "a", "e", "f"}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_pass_that_goes_on_from_any_row_ends_as_one_that_never_stopped(tmp_path: Path, threads: int) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    rows = images(50)
    model, feed = ObservedModel(path, TENSORS, threads), feed_of(rows, path)
    whole, parts = (Calibrated.empty("id", TENSORS, {}) for _ in range(2))
    watch = Watch(lambda fraction: None)
    observe_into(whole, model, feed, 50, watch)
    observe_into(parts, model, feed, 32, watch)
    observe_into(parts, model, feed, 50, watch)
    assert parts.rows == whole.rows == 50
    for name in TENSORS:
        assert np.array_equal(parts.histograms[name].bins, whole.histograms[name].bins), name
        assert parts.extremes(name) == whole.extremes(name)
    assert sorted(whole.curve) == [32, 50]


def test_checkpoints_come_as_often_as_asked(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "m.onnx")
    ticks = iter(range(1000))
    written: list[int] = []
    seen = Calibrated.empty("id", ("x",), {})
    watch = Watch(lambda fraction: None, None, lambda: written.append(seen.rows), 2.0, lambda: float(next(ticks)))
    observe_into(seen, ObservedModel(path, ("x",), 1), feed_of(images(320), path), 320, watch)
    assert len(written) > 2
    assert written == sorted(set(written))
