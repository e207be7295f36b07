"""Second-order rounding stays on the grid and never loses more than rounding to the nearest."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.quantization.tuning.layer import Floats
from service.quantization.tuning.rounding import Levels, dampened, rounded


def layer(seed: int, columns: int) -> tuple[Floats, Floats, Levels]:
    """A matrix [2, 3, columns], moments of inputs that depend on each other, and a coarse grid."""
    random = np.random.default_rng(seed)
    matrix = random.normal(0, 1, (2, 3, columns))
    inputs = random.normal(0, 1, (2, 200, columns)) @ random.normal(0, 1, (2, columns, columns)) + 1
    moments = inputs.transpose(0, 2, 1) @ inputs / 200
    return matrix, moments, Levels.of(matrix, np.abs(matrix).max(axis=2, keepdims=True) / 7)


def loss(error: Floats, moments: Floats) -> Floats:
    return np.asarray(np.einsum("goi,gij,goj->go", error, dampened(moments), error))


@given(seed=st.integers(0, 10**6), columns=st.sampled_from([1, 5, 70, 140]))
@settings(max_examples=25, deadline=None)
def test_the_loss_never_exceeds_plain_rounding(seed: int, columns: int) -> None:
    matrix, moments, levels = layer(seed, columns)
    found = rounded(matrix, moments, levels)
    assert (loss(matrix - found, moments) <= loss(matrix - levels.nearest(matrix), moments) * (1 + 1e-9)).all()
    integers = found / levels.scale
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-9)
    assert (np.abs(integers) <= levels.limit + 1e-9).all()


@given(seed=st.integers(0, 10**6), columns=st.sampled_from([4, 70, 140]))
@settings(max_examples=25, deadline=None)
def test_pruned_weights_stay_zero_and_the_loss_never_exceeds_plain_rounding(seed: int, columns: int) -> None:
    matrix, moments, levels = layer(seed, columns)
    matrix = np.where(np.random.default_rng(seed).random(matrix.shape) < 0.5, 0, matrix)
    found = rounded(matrix, moments, levels, keep_zeros=True)
    assert not found[matrix == 0].any()
    assert (loss(matrix - found, moments) <= loss(matrix - levels.nearest(matrix), moments) * (1 + 1e-9)).all()


def test_dependent_inputs_gain_much() -> None:
    matrix, moments, levels = layer(1, 70)
    plain = loss(matrix - levels.nearest(matrix), moments).sum()
    assert loss(matrix - rounded(matrix, moments, levels), moments).sum() < plain / 2


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    matrix, _, levels = layer(2, 20)
    np.testing.assert_allclose(rounded(matrix, np.stack([np.eye(20)] * 2), levels), levels.nearest(matrix))


def test_inputs_that_are_always_zero_are_no_obstacle() -> None:
    matrix, _, levels = layer(3, 20)
    np.testing.assert_allclose(rounded(matrix, np.zeros((2, 20, 20)), levels), levels.nearest(matrix))
