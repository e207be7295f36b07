"""Calibration sees every value of every chosen tensor once, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization import calibration
from service.quantization.calibration import ObservedModel, observe
from service.quantization.rows import Array, Feed, Rows
from tests.unit.quantization.small_models import classifier, images, relu_model, saved, value

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
    monkeypatch.setattr(calibration, "_BATCH_BYTES", row_bytes * 3)
    taken: list[int] = []
    observed = ObservedModel(path, ("x", "c"), 1)
    run = observed.run

    def logged(batch: dict[str, Array]) -> Iterator[tuple[str, Array]]:
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
