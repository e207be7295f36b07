"""Noise is measured where there are numbers, and what turns NaN or infinite is all noise."""

from __future__ import annotations

import numpy as np

from service.quantization.measures.noise import joined, noise_share


def test_noise_is_the_squared_error_over_the_variance() -> None:
    assert noise_share(np.array([0.0, 2.0]), np.array([0.5, 2.5])) == 0.25


def test_what_a_mask_makes_infinite_counts_for_nothing() -> None:
    expected, given = np.array([0.0, 2.0, -np.inf]), np.array([0.5, 2.5, -np.inf])
    assert noise_share(expected, given) == 0.25
    assert noise_share(np.full(3, np.nan), np.full(3, np.nan)) == 0


def test_another_shape_or_a_value_that_turned_infinite_is_all_noise() -> None:
    values = np.arange(3.0)
    assert noise_share(values, values[:2]) == 1
    assert noise_share(values, np.array([0.0, 1.0, np.inf])) == 1


def test_an_output_that_never_changes_is_all_noise_once_it_differs() -> None:
    assert noise_share(np.ones(3), np.ones(3)) == 0
    assert noise_share(np.ones(3), np.array([1.0, 1.0, 1.5])) == 1


def test_batches_of_an_output_whose_shape_depends_on_the_values_are_laid_flat() -> None:
    assert joined([np.zeros((2, 5)), np.zeros((2, 4))]).shape == (18,)
    assert joined([np.zeros((2, 5)), np.zeros((3, 5))]).shape == (5, 5)
    assert joined([np.ones(()), np.ones(())]).shape == (2,)
