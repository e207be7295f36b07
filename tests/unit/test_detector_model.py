"""The detector of `models/detector` is what its card says: two ranges in one Concat, and it finds what is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from models.detector.make import CLASSES, EXTENT, draw_scenes, make_detector, split_output
from service.engines.onnxruntime_engine import OnnxRuntimeEngine

SCENES = draw_scenes(2, 64)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return make_detector()


@pytest.fixture(scope="module")
def detections(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    path: Path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    onnx.save_model(model, path)
    return OnnxRuntimeEngine.load(path, 1).infer({"input": SCENES.images})["detections"]


def test_boxes_of_hundreds_and_scores_below_one_leave_through_one_concat(
    model: onnx.ModelProto, detections: NDArray[np.float32]
) -> None:
    concat = next(node for node in model.graph.node if node.op_type == "Concat")
    boxes, scores = split_output(detections)
    assert list(concat.input) == ["boxes", "scores"]
    assert 0 <= boxes.min() < 50 < 600 < boxes.max() <= EXTENT
    assert 0 <= scores.min() < 0.01 < 0.9 < scores.max() <= 1


def test_the_best_scores_are_where_squares_of_their_colour_are(detections: NDArray[np.float32]) -> None:
    scores = split_output(detections)[1]
    truth = SCENES.classes.reshape(len(scores), 1, -1) == np.arange(CLASSES)[:, np.newaxis]
    assert scores[truth].mean() > 0.3 > 0.02 > scores[~truth].mean()


def test_boxes_lie_around_the_squares(detections: NDArray[np.float32]) -> None:
    boxes = split_output(detections)[0]
    present = np.broadcast_to(SCENES.classes.reshape(len(boxes), 1, -1) >= 0, boxes.shape)
    error = np.abs(boxes - SCENES.boxes.reshape(boxes.shape))[present]
    assert error.mean() < 12


def test_the_same_seed_draws_the_same_scenes_and_another_draws_others() -> None:
    again, other = draw_scenes(2, 64), draw_scenes(1, 64)
    np.testing.assert_array_equal(again.images, SCENES.images)
    assert not np.array_equal(again.images, other.images)
