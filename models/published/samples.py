"""Rows like those the published models were trained on: drawn text, photos, hummed sounds, spectrograms and files.

Each maker takes a number of rows, what to draw from ("calibration" or "validation", which share no photo and no file)
and a generator of random numbers.
"""

from __future__ import annotations

import keyword
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

Array = NDArray[Any]
Sample = Callable[[int, str, np.random.Generator], Array]
PHOTOS = {"calibration": ("astronaut", "coffee", "chelsea"), "validation": ("rocket", "immunohistochemistry", "brick")}
_WORDS = (*keyword.kwlist, "2026", "3.14159", "Total:", "EUR 17.50", "No. 42", "10:30", "www", "(c)", "A-7", "100 %")
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
_IMAGENET_MEAN, _IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
_RATE = 16_000
_PADDING_BYTE = 256


@cache
def _photo(name: str) -> NDArray[np.uint8]:
    loaded: Any = getattr(skimage.data, name)()
    return np.asarray(loaded if loaded.ndim == 3 else np.repeat(loaded[..., np.newaxis], 3, axis=2), np.uint8)


def _ground(height: int, width: int, split: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """Paper: plain, or with a faint photo on it. UINT8 [height, width, 3]."""
    paper = np.full((height, width, 3), random.uniform(170, 250))
    if random.random() < 0.5:
        photo = _photo(PHOTOS[split][random.integers(len(PHOTOS[split]))])
        paper += 0.3 * (cv2.resize(photo, (width, height)).astype(np.float64) - 127)
    return np.clip(paper, 0, 255).astype(np.uint8)


def _write(picture: NDArray[np.uint8], place: tuple[int, int], scale: float, random: np.random.Generator) -> None:
    words = " ".join(random.choice(_WORDS, random.integers(1, 5)))
    ink = [int(part) for part in random.integers(0, 100, 3)]
    font = int(random.choice(_FONTS))
    cv2.putText(picture, words, place, font, scale, ink, max(1, round(scale)), cv2.LINE_AA)


def _line(height: int, width: int, split: str, random: np.random.Generator) -> NDArray[np.uint8]:
    picture = _ground(height, width, split, random)
    _write(picture, (4, round(0.7 * height)), height / 48 * random.uniform(0.7, 1.1), random)
    return picture


def _page(height: int, width: int, split: str, random: np.random.Generator) -> NDArray[np.uint8]:
    picture = _ground(height, width, split, random)
    for baseline in range(28, height, int(random.integers(26, 60))):
        _write(picture, (int(random.integers(0, width // 3)), baseline), random.uniform(0.4, 0.9), random)
    return picture


def _normalized(picture: NDArray[np.uint8]) -> Array:
    return (picture / 255 - _IMAGENET_MEAN) / _IMAGENET_STD


def pages(height: int, width: int, raw: bool = False) -> Sample:
    """FP32 [rows, 3, height, width] of printed pages, by ImageNet's mean and deviation, or from 0 to 255 if `raw`."""

    def sample(rows: int, split: str, random: np.random.Generator) -> Array:
        drawn = (_page(height, width, split, random) for _ in range(rows))
        pictures = np.stack([picture if raw else _normalized(picture) for picture in drawn])
        return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)

    return sample


def lines(height: int, width: int) -> Sample:
    """FP32 [rows, 3, height, width] of one printed line each, from -1 to 1."""

    def sample(rows: int, split: str, random: np.random.Generator) -> Array:
        pictures = np.stack([_line(height, width, split, random) for _ in range(rows)]) / 127.5 - 1
        return np.ascontiguousarray(pictures.transpose(0, 3, 1, 2), np.float32)

    return sample


def _sound(samples: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A hummed tone with overtones that comes and goes, and noise; from -1 to 1, at 16 kHz."""
    time = np.arange(samples) / _RATE
    tone = random.uniform(90, 300) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(1, 5) * time))
    phase = 2 * np.pi * np.cumsum(tone) / _RATE
    hum = sum(random.uniform(0, 1) / part * np.sin(part * phase) for part in range(1, 12))
    loud = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * time + random.uniform(0, 6)) + 0.3, 0, 1)
    made = hum * loud + random.normal(size=samples) * random.uniform(0.001, 0.1)
    return np.asarray(made / np.abs(made).max() * random.uniform(0.1, 0.9), np.float32)


def sounds(*shape: int) -> Sample:
    """FP32 [rows, *shape], one sound each."""
    return lambda rows, split, random: np.stack([_sound(max(shape), random).reshape(shape) for _ in range(rows)])


def spectrograms(frames: int, bins: int, channels: int = 0) -> Sample:
    """FP32 [rows, frames, bins], or [rows, channels, frames, bins]: logarithms of the power, 10 ms a frame."""
    window, hop = 320, 160

    def one(random: np.random.Generator) -> Array:
        sound = _sound(window + hop * frames, random)
        power = [np.abs(np.fft.rfft(sound[hop * frame :][:window])[:bins]) ** 2 for frame in range(frames)]
        return np.log10(np.maximum(power, 1e-12))

    def sample(rows: int, split: str, random: np.random.Generator) -> Array:
        shape = (rows, *((channels,) if channels else ()), frames, bins)
        made = [one(random) for _ in range(rows * max(channels, 1))]
        return np.asarray(made, np.float32).reshape(shape)

    return sample


def _library_files(split: str) -> list[Path]:
    folders = (Path(sysconfig.get_paths()["stdlib"]) / name for name in ("lib-dynload", "encodings", "json", "test"))
    files = sorted(path for folder in folders for path in folder.glob("*.*") if path.is_file())
    return files[split == "validation" :: 2]


def file_ends(length: int) -> Sample:
    """INT32 [rows, 2 length]: the first and the last bytes of files of Python's library, padded with 256."""

    def one(path: Path) -> NDArray[np.int32]:
        content = np.frombuffer(path.read_bytes(), np.uint8)
        ends = np.full(2 * length, _PADDING_BYTE, np.int32)
        first, last = content[:length], content[-length:]
        ends[: len(first)], ends[2 * length - len(last) :] = first, last
        return ends

    def sample(rows: int, split: str, random: np.random.Generator) -> Array:
        return np.stack([one(path) for path in random.choice(_library_files(split), rows, replace=False)])

    return sample


def numbers(*shape: int, scale: float = 1.0) -> Sample:
    """FP32 [rows, *shape] of normal numbers."""
    return lambda rows, split, random: np.asarray(random.normal(0, scale, (rows, *shape)), np.float32)


def always(value: float, kind: type[np.generic] = np.float32) -> Sample:
    """[rows] of one number, for an input that is a number itself."""
    return lambda rows, split, random: np.full(rows, value, kind)
