"""Collects published, trained models out of the Python packages that ship them, each with rows to prove it on.

Run as `python -m models.published.collect`; needs the packages of `models/published/requirements.txt`, and NumPy,
OpenCV and scikit-image. Each goes to FOLDER/NAME: model.onnx, calibration.npz, validation.npz. Nothing is downloaded.
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from models.command_line import write_each
from models.published.catalogue import PUBLISHED

SEED = 39
ROWS = {"calibration": 64, "validation": 32}


def collect(name: str, folder: Path) -> Path:
    """Writes the files of one model and returns the model's path. Raises FileNotFoundError where that is missing."""
    published = PUBLISHED[name]
    try:
        source = Path(str(distribution(published.package).locate_file(published.file)))
    except PackageNotFoundError as error:
        raise FileNotFoundError(f"{published.package} is not installed; see models/published/README.md") from error
    if not source.exists():
        raise FileNotFoundError(f"this {published.package} has no {published.file}; install the version that is named")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "model.onnx")
    for number, (split, rows) in enumerate(ROWS.items()):
        random = np.random.default_rng([SEED, number])
        arrays = {key: sample(rows, split, random) for key, sample in published.inputs.items()}
        np.savez(folder / f"{split}.npz", **arrays)
    return folder / "model.onnx"


if __name__ == "__main__":
    sys.exit(write_each(__doc__.splitlines()[0], PUBLISHED, collect, Path(__file__).parent / "build"))
