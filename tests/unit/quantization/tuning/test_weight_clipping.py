"""Clipped ranges never have a larger squared error, and gain where few weights are far out."""

from __future__ import annotations

import numpy as np
import pytest

from service.quantization.tuning.layer import Floats
from service.quantization.tuning.weight_clipping import clipped


def error(matrix: Floats, limited: Floats, limit: int) -> Floats:
    """Of plain rounding on the grid that `limited` asks for, by output."""
    steps = np.abs(limited).max(axis=2, keepdims=True) / limit
    return np.asarray(((matrix - np.rint(limited / steps).clip(-limit, limit) * steps) ** 2).sum(axis=2))


@pytest.mark.parametrize("limit", [7, 64, 127])
def test_no_channel_gets_worse(limit: int) -> None:
    matrix = np.random.default_rng(1).standard_t(3, (2, 8, 200))
    found = clipped(matrix, np.abs(matrix).max(axis=2, keepdims=True) / limit)
    assert (error(matrix, found, limit) <= error(matrix, matrix, limit) + 1e-12).all()


def test_one_far_weight_is_cut_and_others_stay() -> None:
    matrix = np.random.default_rng(2).normal(0, 1, (1, 1, 2000))
    matrix[0, 0, 0] = 8.0
    found = clipped(matrix, np.abs(matrix).max(axis=2, keepdims=True) / 7)
    assert np.abs(found).max() < 8.0
    inside = np.abs(matrix) < np.abs(found).max()
    np.testing.assert_array_equal(found[inside], matrix[inside])


def test_a_weight_with_a_large_input_is_not_cut() -> None:
    matrix = np.random.default_rng(2).normal(0, 1, (1, 1, 2000))
    matrix[0, 0, 0] = 8.0
    importance = np.ones((1, 2000))
    importance[0, 0] = 1e6
    np.testing.assert_array_equal(clipped(matrix, np.full((1, 1, 1), 8 / 7), importance), matrix)


def test_one_scale_for_all_is_chosen_for_all() -> None:
    matrix = np.random.default_rng(3).normal(0, 1, (1, 4, 500))
    matrix[0, 0, 0] = 9.0
    found = clipped(matrix, np.full((1, 1, 1), 9 / 7))
    assert np.abs(found).max() < 9.0
