"""Collects published, trained models out of the Python packages that ship them, each with rows to prove it on.

Run as `python -m models.published.collect`; needs the packages of `models/published/requirements.txt`, and NumPy,
OpenCV and scikit-image. Each goes to FOLDER/NAME: model.onnx, calibration.npz, validation.npz. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

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


def main() -> int:
    """0: all were collected; 1: some could not be, and stderr says why."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="some of them (default all)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "build", help="default: %(default)s")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(PUBLISHED)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PUBLISHED)}")
    failed = 0
    for name in arguments.names or PUBLISHED:
        try:
            path = collect(name, arguments.output / name)
        except FileNotFoundError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: {path.stat().st_size / 2**20:.1f} MiB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
