"""Second-order rounding: integers that keep a layer's outputs, not its weights, closest to the float ones.

Minimises (W - Q) H (W - Q)^T, H the second moments of the layer's inputs: first column by column with the error passed
on to the columns still to come (Frantar, "Optimal Brain Compression" and "GPTQ", 2022), then by coordinate descent,
which never raises the loss. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.quantization.tuning.layer import Floats

Flags = npt.NDArray[np.bool_]
# Share of the mean of H's diagonal that is added to the diagonal, so that unseen directions keep plain rounding.
DAMPENING = 0.01
_SWEEPS = 3
_BLOCK = 64


@dataclass(frozen=True)
class Levels:
    """The grid of a matrix [groups, outputs, columns]: step and largest integer, of each output or one for all."""

    scale: Floats
    limit: Floats

    @staticmethod
    def of(matrix: Floats, scale: Floats) -> Levels:
        """The limit of each scale is the largest integer that plain rounding gives: the plan saw to it that it fits."""
        axes = 2 if scale.size > 1 else None
        largest = np.abs(matrix).max(axis=axes, keepdims=True, initial=0.0)
        return Levels(scale, np.maximum(np.rint(largest / scale), 1.0))

    def nearest(self, values: Floats) -> Floats:
        """[groups, outputs, any]"""
        found: Floats = np.rint(values / self.scale).clip(-self.limit, self.limit) * self.scale
        return found


def rounded(matrix: Floats, moments: Floats, levels: Levels, keep_zeros: bool = False) -> Floats:
    """`matrix` on the grid. `moments` is FP64 [groups, columns, columns]; the loss never exceeds plain rounding's.

    `keep_zeros` leaves weights that are zero at zero, as those of a pruned matrix must be.
    """
    damped = dampened(moments)
    plain = levels.nearest(matrix)
    free = (matrix != 0) if keep_zeros else np.ones(matrix.shape, bool)
    started = _column_by_column(matrix, damped, levels, free)
    better = _loss(matrix - started, damped) < _loss(matrix - plain, damped)
    start = np.where(better[..., None], started, plain)
    return _descended((matrix, start), damped, levels, free)


def dampened(moments: Floats) -> Floats:
    """H with its diagonal raised, so that it has an inverse."""
    diagonal = np.einsum("gii->gi", moments)
    lift = DAMPENING * diagonal.mean(axis=1) + 1e-12
    raised: Floats = moments + lift[:, None, None] * np.eye(moments.shape[-1])
    return raised


def _loss(error: Floats, moments: Floats) -> Floats:
    """[groups, outputs]"""
    loss: Floats = np.einsum("goi,goi->go", error @ moments, error)
    return loss


def _column_by_column(matrix: Floats, moments: Floats, levels: Levels, free: Flags) -> Floats:
    """Columns of large input first; each column's error is made up for by the free weights after it."""
    order = np.argsort(-np.einsum("gii->gi", moments), axis=1)
    sorted_moments = np.take_along_axis(
        np.take_along_axis(moments, order[:, :, None], axis=1), order[:, None, :], axis=2
    )
    factor = np.linalg.cholesky(np.linalg.inv(sorted_moments)).transpose(0, 2, 1)
    left = np.take_along_axis(matrix, order[:, None, :], axis=2)
    may_move = np.take_along_axis(free, order[:, None, :], axis=2)
    done = np.empty_like(left)
    columns = matrix.shape[2]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty((*matrix.shape[:2], stop - start))
        for column in range(start, stop):
            done[:, :, column] = levels.nearest(left[:, :, column, None])[..., 0] * may_move[:, :, column]
            pivot = factor[:, None, column, column]
            errors[:, :, column - start] = (left[:, :, column] - done[:, :, column]) / pivot
            rest = factor[:, None, column, column + 1 : stop]
            left[:, :, column + 1 : stop] -= errors[:, :, column - start, None] * rest
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return np.take_along_axis(done, np.argsort(order, axis=1)[:, None, :], axis=2)


def _descended(pair: tuple[Floats, Floats], moments: Floats, levels: Levels, free: Flags) -> Floats:
    """One integer column at a time to its best value with all others held, a few sweeps or until none changes.

    `pair` is the matrix and where to start.
    """
    matrix, start = pair
    current = start.copy()
    pull = (matrix - current) @ moments
    diagonal = np.einsum("gii->gi", moments)
    for _ in range(_SWEEPS):
        changed = False
        for column in range(matrix.shape[2]):
            wanted = current[:, :, column] + pull[:, :, column] / diagonal[:, None, column]
            moved = levels.nearest(wanted[..., None])[..., 0] * free[:, :, column]
            step = moved - current[:, :, column]
            if np.any(step):
                changed = True
                current[:, :, column] = moved
                pull -= step[..., None] * moments[:, None, column, :]
        if not changed:
            break
    return current
