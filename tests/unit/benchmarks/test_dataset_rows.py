"""Datasets of any length, in the form that the pipeline reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.dataset_rows import take_rows
from service.quantization.data.rows import Rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    images = np.random.default_rng(1).random((5, 2, 7), np.float32)
    np.savez_compressed(tmp_path / "source.npz", input=images, labels=np.arange(5))
    return tmp_path / "source.npz"


def test_the_first_rows_are_taken_as_they_are(tmp_path: Path, source: Path) -> None:
    take_rows(source, 3, tmp_path / "rows.npz")
    rows = Rows.open(tmp_path / "rows.npz", "taken")
    with np.load(source) as arrays:
        np.testing.assert_array_equal(rows.arrays["input"], arrays["input"][:3])
    assert rows.labels is not None
    assert rows.labels.tolist() == [0, 1, 2]


def test_more_rows_than_there_are_repeat_shifted_and_none_is_another(tmp_path: Path, source: Path) -> None:
    take_rows(source, 35, tmp_path / "rows.npz")
    rows = Rows.open(tmp_path / "rows.npz", "taken")
    assert len(rows) == len(rows.digests()) == 35
    np.testing.assert_array_equal(rows.arrays["input"][33], np.roll(rows.arrays["input"][3], 6, axis=-1))
