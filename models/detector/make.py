"""Makes a small object detector whose boxes (0 to 640) and scores (0 to 1) leave through one Concat, and its scenes.

Run as `python -m models.detector.make`. Needs numpy, onnx and onnxruntime alone: the convolutions are random from a
fixed seed, the two heads are least-squares fits on seeded scenes, so that a run takes seconds and repeats itself.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SEED = 20
SIDE, GRID = 160, 20
# Boxes are told for a picture of 640 x 640, four times the input: one cell of the grid covers 32 of them.
EXTENT, CELL = 640.0, 32.0
COLOURS = np.array([[1, 0.1, 0.1], [0.1, 1, 0.1], [0.1, 0.1, 1]], np.float32)
CLASSES = len(COLOURS)
BOX_VALUES = 4
# (channels, stride) of the convolutions in turn, each 3 x 3 with ReLU.
BACKBONE = ((16, 2), (32, 2), (48, 2), (64, 1), (64, 1))
TRAINING_SCENES = 96
PRESENT, ABSENT = 4.0, -6.0
# The seed and the number of scenes of each file.
SPLITS = {"calibration": (1, 64), "validation": (2, 128)}


@dataclass(frozen=True)
class Scenes:
    """`images` FP32 [scenes, 3, 160, 160]; at each cell with an object's centre its class and box, else -1 and 0."""

    images: Floats
    classes: NDArray[np.int64]
    boxes: Floats


def draw_scenes(seed: int, count: int) -> Scenes:
    """Returns pictures of one to five coloured squares on gray noise; boxes are (centre x, centre y, width, height)."""
    random = np.random.default_rng([SEED, seed])
    images = random.uniform(0, 0.3, (count, 1, SIDE, SIDE)).astype(np.float32).repeat(3, axis=1)
    classes = np.full((count, GRID, GRID), -1, np.int64)
    boxes = np.zeros((count, BOX_VALUES, GRID, GRID), np.float32)
    for scene in range(count):
        for _ in range(random.integers(1, 6)):
            side = int(random.integers(12, 29))
            top, left = (int(value) for value in random.integers(0, SIDE - side, 2))
            colour = int(random.integers(CLASSES))
            brightness = random.uniform(0.6, 1)
            square = COLOURS[colour][:, None, None] * brightness
            images[scene, :, top : top + side, left : left + side] = square
            scale = EXTENT / SIDE
            x, y = (left + side / 2) * scale, (top + side / 2) * scale
            row, column = int(y // CELL), int(x // CELL)
            classes[scene, row, column] = colour
            boxes[scene, :, row, column] = x, y, side * scale, side * scale
    return Scenes(images, classes, boxes)


def make_detector() -> ModelProto:
    """Returns the model: `input` FP32 [batch, 3, 160, 160] to `detections` [batch, 4 + CLASSES, 400]."""
    backbone = _Graph()
    features = backbone.add_backbone("input")
    scenes = draw_scenes(0, TRAINING_SCENES)
    session = onnxruntime.InferenceSession(
        backbone.model(features, [None, BACKBONE[-1][0], GRID, GRID]).SerializeToString(),
        providers=["CPUExecutionProvider"],
    )
    seen = np.asarray(session.run([features], {"input": scenes.images})[0])
    backbone.add_heads(features, *_fit_heads(seen, scenes))
    return backbone.model("detections", ["batch", BOX_VALUES + CLASSES, GRID * GRID])


def _fit_heads(features: Floats, scenes: Scenes) -> tuple[Floats, Floats]:
    """Weights [outputs, features + 1], the last column a bias, of the scores' logits and of the boxes in cells."""
    flat = features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    rows: Doubles = np.column_stack([flat, np.ones(len(flat))]).astype(np.float64)
    classes = scenes.classes.ravel()
    present = classes >= 0
    logits = np.where(classes[:, None] == np.arange(CLASSES), PRESENT, ABSENT)
    # Cells without an object are many times as many: an object weighs as much as all of its picture's empty cells.
    importance = np.where(present, (~present).sum() / present.sum() / 4, 1.0)
    boxes = scenes.boxes.transpose(0, 2, 3, 1).reshape(-1, BOX_VALUES)[present]
    corners = _cell_corners().reshape(BOX_VALUES, -1).T
    wanted: Doubles = (boxes - np.tile(corners, (len(scenes.images), 1))[present]).astype(np.float64) / CELL
    return _least_squares(rows, logits, importance), _least_squares(rows[present], wanted, np.ones(present.sum()))


def _least_squares(rows: Doubles, wanted: Doubles, importance: Doubles) -> Floats:
    weighted = rows * importance[:, None]
    ridge = 1e-3 * np.trace(weighted.T @ rows) / rows.shape[1]
    solved = np.linalg.solve(weighted.T @ rows + ridge * np.eye(rows.shape[1]), weighted.T @ wanted)
    return solved.T.astype(np.float32)


def _cell_corners() -> Floats:
    """[4, GRID, GRID]: the left and upper edge of every cell, and zeros for width and height."""
    row, column = np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij")
    return np.stack([column * CELL, row * CELL, 0 * row, 0 * row]).astype(np.float32)


class _Graph:
    """Nodes and constants in the making; every node is named after its output."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def add_backbone(self, tensor: str) -> str:
        random = np.random.default_rng(SEED)
        channels = 3
        for index, (outgoing, stride) in enumerate(BACKBONE):
            spread = np.sqrt(2 / (9 * channels))
            weight = random.normal(0, spread, (outgoing, channels, 3, 3)).astype(np.float32)
            bias = random.uniform(0, 0.1, outgoing).astype(np.float32)
            tensor = self._convolve(tensor, f"conv{index}", (weight, bias), stride)
            tensor = self._add("Relu", [tensor], f"relu{index}")
            channels = outgoing
        return tensor

    def add_heads(self, features: str, scores: Floats, boxes: Floats) -> None:
        logits = self._convolve(features, "logits", (scores[:, :-1, None, None], scores[:, -1]), 1)
        probable = self._add("Sigmoid", [logits], "scores")
        cells = self._convolve(features, "cells", (boxes[:, :-1, None, None], boxes[:, -1]), 1)
        scaled = self._add("Mul", [cells, self._constant("cell", np.array(CELL, np.float32))], "scaled")
        placed = self._add("Add", [scaled, self._constant("corners", _cell_corners()[None])], "placed")
        bounds = [self._constant(name, np.array(value, np.float32)) for name, value in (("low", 0), ("high", EXTENT))]
        inside = self._add("Clip", [placed, *bounds], "boxes")
        joined = self._add("Concat", [inside, probable], "joined", axis=1)
        shape = self._constant("shape", np.array([0, BOX_VALUES + CLASSES, GRID * GRID], np.int64))
        self._add("Reshape", [joined, shape], "detections")

    def _convolve(self, tensor: str, name: str, parameters: tuple[Floats, Floats], stride: int) -> str:
        weight, bias = parameters
        inputs = [tensor, self._constant(f"{name}_weight", weight), self._constant(f"{name}_bias", bias)]
        edge = [weight.shape[-1] // 2] * 4
        return self._add("Conv", inputs, name, pads=edge, strides=[stride] * 2)

    def _constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def model(self, output: str, shape: list[str | int | None]) -> ModelProto:
        image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "detector", [image], [result], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def split_output(detections: Floats) -> tuple[Floats, Floats]:
    """The boxes [batch, 4, 400] and the scores [batch, CLASSES, 400] of the model's output."""
    return detections[:, :BOX_VALUES], detections[:, BOX_VALUES:]


def write_folder(folder: Path) -> None:
    """Writes detector.onnx, calibration.npz and validation.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(make_detector(), folder / "detector.onnx")
    for split, (seed, rows) in SPLITS.items():
        np.savez_compressed(folder / f"{split}.npz", input=draw_scenes(seed, rows).images)


def main() -> None:
    """Reads the command line and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "build"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    write_folder(parser.parse_args().output)


if __name__ == "__main__":
    main()
