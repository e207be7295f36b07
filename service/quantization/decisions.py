"""What a classifier decides, row by row, beside the reference: top-1, top-5, agreement, each with an interval.

The interval is a paired bootstrap: rows are drawn again with both models' verdicts on them, from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from service.domain.recipe import Budget
from service.errors import InvalidDataset, InvalidRecipe
from service.quantization.figures import ErrorFigures

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
_SEED = 20
_RESAMPLES = 2000
_TOP = 5
_MAX_CLASSES = 2000


def scores_output(outputs: Mapping[str, Array], count: int) -> str | None:
    """The first floating-point output that holds one vector of two or more scores a row, or None."""
    for name, values in outputs.items():
        by_row = values.ndim > 0 and values.shape[0] == count
        row_shape = values.shape[1:] if by_row else values.shape
        if (
            (by_row or count == 1)
            and values.dtype.kind == "f"
            and len([extent for extent in row_shape if extent > 1]) == 1
        ):
            return name
    return None


def chosen_metric(budget: Budget, labels: bool, scores: bool) -> str:
    """The budget's metric, or the best that can be told: top1 with labels, agreement without, cosine where the model
    gives no class scores. Raises InvalidRecipe where the named one cannot be told.
    """
    if budget.metric is None:
        return ("top1" if labels else "agreement") if scores else "cosine"
    if budget.metric in ("top1", "top5", "agreement") and not scores:
        raise InvalidRecipe(
            f"budget.metric is {budget.metric!r} but no output of the model is a vector of class scores; send mae or "
            "cosine"
        )
    if budget.metric in ("top1", "top5") and not labels:
        raise InvalidRecipe(f"budget.metric is {budget.metric!r} but the rows have no labels; send agreement")
    return budget.metric


def top_indices(scores: Array, count: int) -> npt.NDArray[np.int64]:
    """The `count` best classes of each row of [rows, classes], best first; NaN scores come last."""
    ranked = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), axis=1, kind="stable")
    return ranked[:, :count]


class Decisions:
    """Verdicts on rows of class scores [rows, classes]; `labels` may be None."""

    def __init__(self) -> None:
        self._agree: list[Bools] = []
        self._agree5: list[Bools] = []
        self._right: dict[str, list[tuple[Bools, Bools]]] = {"top1": [], "top5": []}
        self._classes: dict[int, _ClassFigures] = {}

    def add(self, reference: Array, engine: Array, labels: npt.NDArray[np.int64] | None) -> None:
        ours, theirs = top_indices(reference, _TOP), top_indices(engine, _TOP)
        self._agree.append(ours[:, 0] == theirs[:, 0])
        self._agree5.append((theirs == ours[:, :1]).any(axis=1))
        if labels is None:
            return
        check_labels(labels, reference.shape[1])
        wanted = labels[:, np.newaxis]
        for metric, width in (("top1", 1), ("top5", _TOP)):
            hits = ((ours[:, :width] == wanted).any(axis=1), (theirs[:, :width] == wanted).any(axis=1))
            self._right[metric].append(hits)
        self._add_classes(reference, engine, labels)

    def _add_classes(self, reference: Array, engine: Array, labels: npt.NDArray[np.int64]) -> None:
        hits = self._right["top1"][-1]
        for label in np.unique(labels):
            if len(self._classes) >= _MAX_CLASSES and int(label) not in self._classes:
                continue
            rows = labels == label
            figures = self._classes.setdefault(int(label), _ClassFigures())
            figures.add(reference[rows] - engine[rows], (int(hits[0][rows].sum()), int(hits[1][rows].sum())))

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Each metric that can be told: value of the reference and of the engine, loss, and the loss's interval."""
        agree = np.concatenate(self._agree)
        found = {"agreement": _metric(np.ones_like(agree), agree)}
        agree5 = np.concatenate(self._agree5)
        found["top5_agreement"] = _metric(np.ones_like(agree5), agree5)
        for metric, parts in self._right.items():
            if parts:
                found[metric] = _metric(*(np.concatenate(side) for side in zip(*parts, strict=True)))
        return found

    def classes(self) -> list[dict[str, Any]]:
        """Error and accuracy figures of each label, in label order; of the first `_MAX_CLASSES` labels that came."""
        return [{"label": label, **self._classes[label].to_json()} for label in sorted(self._classes)]


class _ClassFigures:
    def __init__(self) -> None:
        self._rows = 0
        self._right = [0, 0]
        self._errors = ErrorFigures()

    def add(self, error: Array, right: tuple[int, int]) -> None:
        self._rows += len(error)
        self._right = [had + more for had, more in zip(self._right, right, strict=True)]
        self._errors.add(error[np.isfinite(error)])

    def to_json(self) -> dict[str, Any]:
        top1 = {"reference_top1": self._right[0] / self._rows, "engine_top1": self._right[1] / self._rows}
        return {"rows": self._rows, **top1, **self._errors.to_json()}


def check_labels(labels: npt.NDArray[np.int64], classes: int) -> None:
    """Raises InvalidDataset where a label names no class of the model."""
    highest = int(labels.max(initial=0))
    if highest >= classes:
        raise InvalidDataset(
            f"the labels run to {highest} but the model scores {classes} classes; send labels from 0 to {classes - 1}"
        )


def _metric(reference: Bools, engine: Bools) -> dict[str, Any]:
    before, after = float(reference.mean()), float(engine.mean())
    loss = 1 - after / before if before > 0 else None
    return {"reference": before, "engine": after, "loss": loss, "interval": paired_loss_interval(reference, engine)}


def paired_loss_interval(reference: Bools, engine: Bools) -> list[float] | None:
    """95 % interval of 1 - P(engine)/P(reference), or None where the reference is never right.

    Drawing rows with replacement is drawing the four joint verdicts from a multinomial distribution, which is all that
    the loss depends on (Efron, 1979).
    """
    if not reference.any():
        return None
    cells = [(reference & engine).sum(), (reference & ~engine).sum(), (~reference & engine).sum()]
    counts = np.array([*cells, len(reference) - sum(cells)], np.float64)
    drawn = np.random.default_rng(_SEED).multinomial(len(reference), counts / counts.sum(), size=_RESAMPLES)
    # A draw in which the reference is never right tells no loss.
    both, lost, gained = drawn[drawn[:, 0] + drawn[:, 1] > 0, :3].T
    losses = 1 - (both + gained) / (both + lost)
    low, high = np.percentile(losses, (2.5, 97.5))
    return [float(low), float(high)]
