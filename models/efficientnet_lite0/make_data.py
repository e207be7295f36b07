"""Writes calibration.npz and validation.npz: random crops of photos that ship inside scikit-image.

No photo gives crops to both files, so validation never sees a calibrated scene. The crops carry no labels: the
metric is the agreement with the reference. It refuses to download anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

SIDE = 224
OFFSET, DIVISOR = np.float32(127), np.float32(128)
SMALLEST_AREA = 0.2  # of the photo
LARGEST_STRETCH = 4 / 3  # of the crop's width over its height, and the inverse
ROWS = {"calibration": 256, "validation": 512}
PHOTOS = {
    "calibration": ("astronaut", "coffee", "stereo_motorcycle", "camera", "grass", "coins", "hubble_deep_field"),
    "validation": ("chelsea", "rocket", "immunohistochemistry", "clock", "gravel", "brick", "moon", "retina"),
}


def load_photo(name: str) -> NDArray[np.uint8]:
    """Returns a scikit-image photo as UINT8 [height, width, 3], RGB; gray photos repeat their one channel."""
    loaded: Any = getattr(skimage.data, name)()
    photo = loaded[0] if isinstance(loaded, tuple) else loaded  # a stereo pair is one scene: its left view
    return np.asarray(photo if photo.ndim == 3 else np.repeat(photo[..., np.newaxis], 3, axis=2), dtype=np.uint8)


def crop_randomly(photo: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Returns one crop of random place, size, stretch and side, as the model's input FP32 [3, 224, 224]."""
    height, width = photo.shape[:2]
    area = height * width * random.uniform(SMALLEST_AREA, 1)
    stretch = np.exp(random.uniform(-np.log(LARGEST_STRETCH), np.log(LARGEST_STRETCH)))
    crop_height = min(height, round(np.sqrt(area / stretch)))
    crop_width = min(width, round(np.sqrt(area * stretch)))
    top = random.integers(height - crop_height + 1)
    left = random.integers(width - crop_width + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if random.random() < 0.5:
        crop = crop[:, ::-1]
    pixels = cv2.resize(np.ascontiguousarray(crop), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return (pixels.transpose(2, 0, 1).astype(np.float32) - OFFSET) / DIVISOR


def write_crops(split: str, folder: Path, seed: int) -> Path:
    """Writes one split, its photos in turn, as a compressed .npz with the array `input`, and returns its path."""
    random = np.random.default_rng([seed, ROWS[split]])
    photos = [load_photo(name) for name in PHOTOS[split]]
    rows = np.empty((ROWS[split], 3, SIDE, SIDE), dtype=np.float32)
    for index in range(len(rows)):
        rows[index] = crop_randomly(photos[index % len(photos)], random)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}.npz"
    np.savez_compressed(path, input=rows)
    return path


def main() -> None:
    """Reads the command line and prints the files written."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "build"
    parser.add_argument("--output", type=Path, default=default, help="folder to write into")
    parser.add_argument("--seed", type=int, default=20, help="seed of every random choice")
    arguments = parser.parse_args()
    for split in ROWS:
        path = write_crops(split, arguments.output, arguments.seed)
        print(f"{path}: {ROWS[split]} crops of {len(PHOTOS[split])} photos")


if __name__ == "__main__":
    main()
