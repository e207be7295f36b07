"""Rows to calibrate and validate random networks with: pictures, sequences and token ids from a seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Rows = tuple[NDArray[np.float32] | NDArray[np.int64], ...]
# Makes so many rows of each of a network's inputs.
Sample = Callable[[int, np.random.Generator], Rows]
# Pictures are coarse blobs under fine noise: noise alone would average out in the first pooling.
_COARSE, _COARSE_SCALE, _FINE_SCALE = 7, 1.5, 0.3
_FIRST_WORD = 5


def pictures(side: int, channels: int = 3) -> Sample:
    """FP32 [rows, channels, side, side]."""

    def sample(rows: int, random: np.random.Generator) -> Rows:
        coarse = torch.from_numpy(random.normal(size=(rows, channels, _COARSE, _COARSE)).astype(np.float32))
        blobs = functional.interpolate(coarse, size=(side, side), mode="bilinear").numpy() * _COARSE_SCALE
        fine = random.normal(size=blobs.shape) * _FINE_SCALE
        return ((blobs + fine).astype(np.float32),)

    return sample


def numbers(*shapes: tuple[int, ...]) -> Sample:
    """An FP32 input [rows, *shape] of normal numbers for each shape."""
    return lambda rows, random: tuple(random.normal(size=(rows, *shape)).astype(np.float32) for shape in shapes)


def words(vocabulary: int, length: int) -> Sample:
    """INT64 [rows, length] of token ids, none of them special."""
    return lambda rows, random: (random.integers(_FIRST_WORD, vocabulary, (rows, length)).astype(np.int64),)


def masked_words(vocabulary: int, length: int) -> Sample:
    """As words, sentences of different lengths padded with 0, and the mask of what is no padding."""

    def sample(rows: int, random: np.random.Generator) -> Rows:
        ids = random.integers(_FIRST_WORD, vocabulary, (rows, length)).astype(np.int64)
        ends = random.integers(length // 2, length + 1, (rows, 1))
        mask = (np.arange(length)[None] < ends).astype(np.int64)
        return (ids * mask, mask)

    return sample


def features(numeric: int, tables: int, vocabulary: int) -> Sample:
    """FP32 [rows, numeric] and INT64 [rows, tables]: a line of a click log."""
    return lambda rows, random: (
        random.normal(size=(rows, numeric)).astype(np.float32),
        random.integers(0, vocabulary, (rows, tables)).astype(np.int64),
    )
