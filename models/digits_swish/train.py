"""Trains an EfficientNet in miniature on the digits; run as `python -m models.digits_swish.train`.

The splits are those of `models/digits`, whose two files serve this model too. It refuses to write a model whose
validation accuracy is below `MINIMUM_ACCURACY`.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from models.digits.train import LABELS, MINIMUM_ACCURACY, VALIDATION_ROWS, export, fit, measure_accuracy, split_digits

SEED = 20
EXPANSION = 3  # of a block's channels, before its depthwise convolution
SQUEEZE = 4  # the block's channels over those that its gate looks at
FILE_NAME = "digits_swish.onnx"


def convolve(channels: tuple[int, int], kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Returns Conv, BatchNorm and swish, x * sigmoid(x)."""
    incoming, outgoing = channels
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outgoing),
        nn.SiLU(),
    )


class Gate(nn.Module):
    """Squeeze and excitation: scales every channel by a number from 0 to 1 made of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // SQUEEZE, 1),
            nn.SiLU(),
            nn.Conv2d(channels // SQUEEZE, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = features * self.squeeze(features)
        return scaled


class Block(nn.Module):
    """An inverted residual: pointwise out, depthwise, gate, pointwise back; added to its input where shapes agree."""

    def __init__(self, channels: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        incoming, outgoing = channels
        wide = incoming * EXPANSION
        self.residual = stride == 1 and incoming == outgoing
        self.layers = nn.Sequential(
            convolve((incoming, wide), kernel=1),
            convolve((wide, wide), kernel=3, stride=stride, groups=wide),
            Gate(wide),
            nn.Conv2d(wide, outgoing, 1, bias=False),
            nn.BatchNorm2d(outgoing),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = self.layers(features)
        return features + changed if self.residual else changed


def build_network() -> nn.Sequential:
    """Returns the untrained network, FP32 [batch, 1, 8, 8] to logits [batch, 10]."""
    layers: dict[str, nn.Module] = {
        "stem": convolve((1, 24), kernel=3),
        "fine": Block((24, 24)),
        "downsample": Block((24, 40), stride=2),
        "coarse": Block((40, 40)),
        "features": convolve((40, 96), kernel=1),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "head": nn.Linear(96, len(LABELS)),
    }
    return nn.Sequential(OrderedDict(layers))


def write_model(folder: Path, epochs: int) -> float:
    """Trains, writes the ONNX file and returns the validation accuracy; raises ValueError if it is too low."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    training, _, validation = split_digits()
    network = build_network()
    fit(network, training, epochs)
    folder.mkdir(parents=True, exist_ok=True)
    export(network, folder / FILE_NAME)
    accuracy = measure_accuracy(folder / FILE_NAME, validation)
    if accuracy < MINIMUM_ACCURACY:
        raise ValueError(f"validation accuracy is {accuracy:.4f}; train longer than {epochs} epochs")
    return accuracy


def main() -> None:
    """Reads the command line and prints the measured accuracy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training split")
    arguments = parser.parse_args()
    accuracy = write_model(arguments.output, arguments.epochs)
    print(f"validation accuracy {accuracy:.4f} on {VALIDATION_ROWS} rows")


if __name__ == "__main__":
    main()
