"""Exports known architectures with random weights as ONNX, each with rows to calibrate and validate it.

Run as `python -m models.architectures.export`; needs the packages of `models/architectures/requirements.txt`. Weights
are random, from a fixed seed: what a graph asks of a quantizer and a runtime does not depend on them, accuracy would.
Means and variances of batch normalizations are those of the rows, so that values keep their size. Each goes to
FOLDER/NAME: model.onnx, calibration.npz, validation.npz.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from models.architectures.catalogue import ARCHITECTURES, Architecture
from models.architectures.samples import Rows
from models.command_line import write_each

SEED = 38
CALIBRATION_ROWS, VALIDATION_ROWS, SETTLING_ROWS = 64, 32, 16
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INPUTS = ("x", "second")


def write_architecture(name: str, folder: Path) -> Path:
    """Writes the files of one architecture and returns the model's path. Raises what torch's exporter raises."""
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    architecture = ARCHITECTURES[name]
    network = architecture.make().eval()
    settle(network, architecture.sample(SETTLING_ROWS, random))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    inputs = export(network, architecture, path, architecture.sample(2, random))
    for split, rows in (("calibration", CALIBRATION_ROWS), ("validation", VALIDATION_ROWS)):
        np.savez(folder / f"{split}.npz", **dict(zip(inputs, architecture.sample(rows, random), strict=True)))
    return path


def settle(network: nn.Module, rows: Rows) -> None:
    """Gives every batch normalization the mean and variance of these rows."""
    norms = [module for module in network.modules() if isinstance(module, _NORMS)]
    for norm in norms:
        norm.train()
        norm.momentum = None
    if norms:
        with torch.no_grad():
            network(*map(torch.from_numpy, rows))
    network.eval()


def export(network: nn.Module, architecture: Architecture, path: Path, rows: Rows) -> list[str]:
    """Writes one file with an open batch, and returns the names of its inputs."""
    batch = torch.export.Dim.DYNAMIC
    axes = [{0: batch} for _ in rows]
    axes[0] |= dict.fromkeys(architecture.open_axes, torch.export.Dim.AUTO)
    torch.onnx.export(
        network,
        tuple(map(torch.from_numpy, rows)),
        str(path),
        input_names=list(_INPUTS[: len(rows)]),
        dynamic_shapes=tuple(axes),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    return [entry.name for entry in onnx.load_model(path).graph.input]


if __name__ == "__main__":
    # Of the exporters and the packages, about their own use of each other.
    warnings.simplefilter("ignore")
    sys.exit(write_each(__doc__.splitlines()[0], ARCHITECTURES, write_architecture, Path(__file__).parent / "build"))
