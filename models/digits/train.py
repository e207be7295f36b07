"""Trains the digits reference model and writes every file of this folder but the README.

Fixed seeds, three disjoint splits and one CPU thread make a run repeatable. It refuses to write a model whose
validation accuracy is below `MINIMUM_ACCURACY`, or a sample picture that the model does not recognise.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 20
CALIBRATION_ROWS = 256
VALIDATION_ROWS = 512
SIDE = 8
LEVELS = 16  # scikit-learn's digits count ink from 0 to 16
BATCH_ROWS = 64
SAMPLE_PIXELS_PER_INK_CELL = 16
MINIMUM_ACCURACY = 0.97
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PREPROCESSING = {
    "task": "classification",
    "width": SIDE,
    "height": SIDE,
    "layout": "NCHW",
    "color": "GRAY",
    "resize": "stretch",
    "scale": 1 / 255,
    "mean": [0.0],
    "std": [1.0],
}


@dataclass(frozen=True)
class Split:
    """Rows of one split: `images` FP32 [rows, 1, 8, 8] within 0..1, `labels` INT64 [rows] within 0..9."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Writes a compressed .npz whose arrays are named as the model's input, and `labels`."""
        np.savez_compressed(path, input=self.images, labels=self.labels)


def split_digits() -> tuple[Split, Split, Split]:
    """Returns the training, calibration and validation splits, stratified by digit and disjoint."""
    digits = load_digits()
    images = (digits.images[:, np.newaxis] / LEVELS).astype(np.float32)
    labels = digits.target.astype(np.int64)
    rest, validation = train_test_split(
        np.arange(len(labels)), test_size=VALIDATION_ROWS, stratify=labels, random_state=SEED
    )
    training, calibration = train_test_split(rest, test_size=CALIBRATION_ROWS, stratify=labels[rest], random_state=SEED)
    train, calibrate, validate = (Split(images[i], labels[i]) for i in (training, calibration, validation))
    return train, calibrate, validate


def convolve(channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Returns Conv, BatchNorm and ReLU; as many groups as channels make the convolution depthwise."""
    incoming, outgoing = channels
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outgoing),
        nn.ReLU(),
    )


def build_network() -> nn.Sequential:
    """Returns the untrained network, FP32 [batch, 1, 8, 8] to logits [batch, 10]; layer names reach the graph."""
    layers: dict[str, nn.Module] = {
        "stem": convolve((1, 24), kernel=3),
        "depthwise": convolve((24, 24), kernel=3, groups=24),
        "pointwise": convolve((24, 48), kernel=1),
        "downsample": convolve((48, 64), kernel=3, stride=2),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "head": nn.Linear(64, len(LABELS)),
    }
    return nn.Sequential(OrderedDict(layers))


def shift_randomly(images: torch.Tensor) -> torch.Tensor:
    """Moves the whole batch [rows, 1, 8, 8] by up to one pixel each way; background fills the gap."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    row, column = (int(torch.randint(3, ())) for _ in range(2))
    return padded[:, :, row : row + SIDE, column : column + SIDE]


def fit(network: nn.Sequential, split: Split, epochs: int) -> None:
    """Trains in place by AdamW under a one-cycle learning rate, and leaves the network in evaluation mode."""
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = -(-len(labels) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs=epochs, steps_per_epoch=steps)
    network.train()
    for _ in range(epochs):
        order = torch.randperm(len(labels))
        for first in range(0, len(labels), BATCH_ROWS):
            rows = order[first : first + BATCH_ROWS]
            optimizer.zero_grad()
            logits = network(shift_randomly(images[rows]))
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.eval()


def export(network: nn.Sequential, path: Path) -> None:
    """Writes one self-contained ONNX file with a dynamic batch; BatchNorm is folded into the convolutions."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, SIDE, SIDE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def measure_accuracy(model: Path, split: Split) -> float:
    """Returns the top-1 accuracy of the ONNX file on ONNX Runtime's CPU provider, 0 to 1."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    logits = np.asarray(session.run(["logits"], {"input": split.images})[0])
    return float(np.mean(logits.argmax(axis=1) == split.labels))


def draw_sample(split: Split, path: Path) -> Split:
    """Draws the split's first row as a PNG, each ink cell a block of equal pixels, and returns that row."""
    row = Split(split.images[:1], split.labels[:1])
    cells = np.rint(row.images[0, 0] * 255).astype(np.uint8)
    block = np.ones((SAMPLE_PIXELS_PER_INK_CELL, SAMPLE_PIXELS_PER_INK_CELL), dtype=np.uint8)
    cv2.imwrite(str(path), np.kron(cells, block))
    return row


def write_folder(folder: Path, epochs: int) -> float:
    """Trains, writes every file and returns the validation accuracy; raises ValueError if it is too low."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    training, calibration, validation = split_digits()
    network = build_network()
    fit(network, training, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    export(network, folder / "digits.onnx")
    calibration.save(folder / "calibration.npz")
    validation.save(folder / "validation.npz")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    (folder / "preprocessing.json").write_text(json.dumps(PREPROCESSING, indent=2) + "\n", encoding="utf-8")
    sample = draw_sample(validation, folder / "sample.png")
    accuracy = measure_accuracy(folder / "digits.onnx", validation)
    if accuracy < MINIMUM_ACCURACY or measure_accuracy(folder / "digits.onnx", sample) < 1:
        raise ValueError(f"validation accuracy is {accuracy:.4f}, or sample.png is not recognised; train longer")
    return accuracy


def main() -> None:
    """Reads the command line and prints the measured accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training split")
    arguments = parser.parse_args()
    accuracy = write_folder(arguments.output, arguments.epochs)
    print(f"validation accuracy {accuracy:.4f} on {VALIDATION_ROWS} rows")


if __name__ == "__main__":
    main()
