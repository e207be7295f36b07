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
from service.quantization.measures.figures import ErrorFigures

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
# Metrics of which the worst of all outputs counts; the others judge outputs of class scores alone.
OF_EVERY_OUTPUT = ("mae", "cosine")
_SEED = 20
_RESAMPLES = 2000
# F1 is counted again for each draw, where the other metrics need only four counts.
_F1_RESAMPLES = 400
_TOP = 5
# Two scores are in falling order by chance.
_PAIR = 2
_MAX_CLASSES = 2000


def scores_outputs(outputs: Mapping[str, Array], count: int) -> tuple[str, ...]:
    """The floating-point outputs that hold one vector of two or more scores for each of `count` rows, in order."""
    return tuple(name for name, values in outputs.items() if _holds_scores(values, count))


def _holds_scores(values: Array, count: int) -> bool:
    by_row = values.ndim > 0 and values.shape[0] == count
    row_shape = values.shape[1:] if by_row else values.shape
    vector = len([extent for extent in row_shape if extent > 1]) == 1
    return (by_row or count == 1) and values.dtype.kind == "f" and vector


def rows_in_falling_order(scores: Array) -> tuple[int, bool]:
    """How many rows of [rows, classes] hold a number, and whether each of these is in falling order; two scores never
    are, for they would be by chance.
    """
    told = scores[~np.isnan(scores).all(axis=1)]
    return len(told), scores.shape[1] > _PAIR and bool((told[:, 1:] <= told[:, :-1]).all())


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
        self.left_out = 0
        self._agree5: list[Bools] = []
        self._right: dict[str, list[tuple[Bools, Bools]]] = {"top1": [], "top5": []}
        self._classes: dict[int, _ClassFigures] = {}
        self._chosen: list[tuple[Labels, Labels, Labels]] = []

    def add(self, reference: Array, engine: Array, labels: Labels | None) -> None:
        # A row of NaN alone decides nothing that an engine could agree with.
        told = ~np.isnan(reference).all(axis=1)
        self.left_out += int(np.count_nonzero(~told))
        if told.any():
            self._add_told(reference[told], engine[told], None if labels is None else labels[told])

    def _add_told(self, reference: Array, engine: Array, labels: Labels | None) -> None:
        ours, theirs = top_indices(reference, _TOP), top_indices(engine, _TOP)
        self._agree.append(ours[:, 0] == theirs[:, 0])
        self._agree5.append((theirs == ours[:, :1]).any(axis=1))
        if labels is None:
            return
        check_labels(labels, reference.shape[1])
        self._chosen.append((labels, ours[:, 0], theirs[:, 0]))
        wanted = labels[:, np.newaxis]
        for metric, width in (("top1", 1), ("top5", _TOP)):
            hits = ((ours[:, :width] == wanted).any(axis=1), (theirs[:, :width] == wanted).any(axis=1))
            self._right[metric].append(hits)
        self._add_classes(reference, engine, labels)

    @property
    def rows(self) -> int:
        """How many were judged; `left_out` are those of which the reference gives nothing but NaN."""
        return sum(map(len, self._agree))

    @property
    def agreement(self) -> float:
        """The share of rows on which both models choose the same; 0 where no row tells."""
        return float(np.concatenate(self._agree).mean()) if self._agree else 0.0

    @property
    def right(self) -> tuple[float, float]:
        """The reference's and the engine's top-1; 0 where no row has a label."""
        if not self._right["top1"]:
            return 0.0, 0.0
        reference, engine = (np.concatenate(side).mean() for side in zip(*self._right["top1"], strict=True))
        return float(reference), float(engine)

    def _add_classes(self, reference: Array, engine: Array, labels: Labels) -> None:
        hits = self._right["top1"][-1]
        for label in np.unique(labels):
            if len(self._classes) >= _MAX_CLASSES and int(label) not in self._classes:
                continue
            rows = labels == label
            figures = self._classes.setdefault(int(label), _ClassFigures())
            figures.add(reference[rows] - engine[rows], (int(hits[0][rows].sum()), int(hits[1][rows].sum())))

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Each metric that can be told: value of the reference and of the engine, loss, and the loss's interval."""
        if not self._agree:
            return {}
        agree = np.concatenate(self._agree)
        found = {"agreement": _metric(np.ones_like(agree), agree)}
        agree5 = np.concatenate(self._agree5)
        found["top5_agreement"] = _metric(np.ones_like(agree5), agree5)
        for metric, parts in self._right.items():
            if parts:
                found[metric] = _metric(*(np.concatenate(side) for side in zip(*parts, strict=True)))
        if self._chosen:
            labels, ours, theirs = (np.concatenate(side) for side in zip(*self._chosen, strict=True))
            found["f1"] = f1_metric(labels, ours, theirs)
        return found

    def tails(self) -> dict[str, Any]:
        """The share of rows whose best class changed; with labels how many rows that cost and won, and the class that
        lost most of its top-1 (the larger one of equals).
        """
        if not self._agree:
            return {}
        found: dict[str, Any] = {"flip_rate": 1 - float(np.concatenate(self._agree).mean())}
        if not self._right["top1"]:
            return found
        ours, theirs = (np.concatenate(side) for side in zip(*self._right["top1"], strict=True))
        found |= {"rows_lost": int((ours & ~theirs).sum()), "rows_won": int((~ours & theirs).sum())}
        worst = max(self.classes(), key=lambda entry: (entry["reference_top1"] - entry["engine_top1"], entry["rows"]))
        return found | {"worst_class": {key: worst[key] for key in _WORST_CLASS}}

    def classes(self) -> list[dict[str, Any]]:
        """Error and accuracy figures of each label, in label order; of the first `_MAX_CLASSES` labels that came."""
        return [{"label": label, **self._classes[label].to_json()} for label in sorted(self._classes)]


_WORST_CLASS = ("label", "rows", "reference_top1", "engine_top1", "mean_absolute_error", "p99")


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


def check_labels(labels: Labels, classes: int) -> None:
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


def f1_metric(labels: Labels, reference: Labels, engine: Labels) -> dict[str, Any]:
    """Macro F1 of both models (the mean over classes that the labels hold), with the loss's 95 % bootstrap interval."""
    before, after = macro_f1(labels, reference), macro_f1(labels, engine)
    if before == 0:
        return {"reference": before, "engine": after, "loss": None, "interval": None}
    random, losses = np.random.default_rng(_SEED), []
    for _ in range(_F1_RESAMPLES):
        rows = random.integers(0, len(labels), len(labels))
        drawn = macro_f1(labels[rows], reference[rows])
        if drawn > 0:
            losses.append(1 - macro_f1(labels[rows], engine[rows]) / drawn)
    low, high = np.percentile(losses, (2.5, 97.5))
    return {"reference": before, "engine": after, "loss": 1 - after / before, "interval": [float(low), float(high)]}


def macro_f1(labels: Labels, chosen: Labels) -> float:
    """2 TP / (2 TP + FP + FN), averaged over the classes that the labels hold."""
    size = int(max(labels.max(), chosen.max())) + 1
    wanted, given = np.bincount(labels, minlength=size), np.bincount(chosen, minlength=size)
    right = np.bincount(labels[labels == chosen], minlength=size)
    held = wanted > 0
    return float((2 * right[held] / (wanted[held] + given[held])).mean())
