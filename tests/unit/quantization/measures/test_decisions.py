"""Accuracy, agreement and their loss, with an interval that means what it says."""

from __future__ import annotations

import numpy as np
import pytest

from service.domain.recipe import Budget
from service.errors import InvalidDataset, InvalidRecipe
from service.quantization.measures.decisions import (
    Array,
    Decisions,
    chosen_metric,
    paired_loss_interval,
    scores_outputs,
    top_indices,
)

LABELS = np.array([0, 1, 2, 3], np.int64)


def one_hot(*winners: int, classes: int = 8) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    scores = np.tile(np.linspace(0.1, 0, classes), (len(winners), 1))
    scores[np.arange(len(winners)), winners] = 1
    return scores


def test_loss_is_one_minus_the_ratio_of_accuracies() -> None:
    decisions = Decisions()
    decisions.add(one_hot(0, 1, 2, 7), one_hot(0, 1, 7, 7), LABELS)
    metrics = decisions.metrics()
    assert (metrics["top1"]["reference"], metrics["top1"]["engine"]) == (0.75, 0.5)
    assert metrics["top1"]["loss"] == pytest.approx(1 - 0.5 / 0.75)
    assert (metrics["agreement"]["reference"], metrics["agreement"]["engine"]) == (1.0, 0.75)


def test_an_engine_that_decides_better_has_a_negative_loss() -> None:
    decisions = Decisions()
    decisions.add(one_hot(0, 0), one_hot(0, 1), LABELS[:2])
    assert decisions.metrics()["top1"]["loss"] == -1


def test_top5_counts_a_label_among_the_five_best() -> None:
    decisions = Decisions()
    decisions.add(one_hot(7, 7, 7, 7), one_hot(7, 7, 7, 7), LABELS)
    metrics = decisions.metrics()
    assert (metrics["top1"]["reference"], metrics["top5"]["reference"]) == (0, 1)
    assert metrics["top1"]["loss"] is None
    assert metrics["top1"]["interval"] is None


def test_rows_without_labels_still_give_agreement() -> None:
    decisions = Decisions()
    decisions.add(one_hot(0, 1), one_hot(0, 2), None)
    assert set(decisions.metrics()) == {"agreement", "top5_agreement"}
    assert decisions.metrics()["agreement"]["engine"] == 0.5
    assert decisions.classes() == []


def test_each_class_has_its_own_figures() -> None:
    decisions = Decisions()
    decisions.add(one_hot(0, 1, 1), one_hot(0, 1, 0), np.array([0, 1, 1]))
    decisions.add(one_hot(3), one_hot(3), np.array([3]))
    classes = decisions.classes()
    assert [(entry["label"], entry["rows"]) for entry in classes] == [(0, 1), (1, 2), (3, 1)]
    assert [entry["engine_top1"] for entry in classes] == [1, 0.5, 1]
    assert classes[0]["max"] == 0
    assert classes[1]["max"] > 0.8


def test_labels_beyond_the_scores_are_refused() -> None:
    with pytest.raises(InvalidDataset, match="the labels run to 3 but the model scores 3 classes"):
        Decisions().add(one_hot(0, 1, 2, 2, classes=3), one_hot(0, 1, 2, 2, classes=3), LABELS)


def test_scores_that_are_not_numbers_come_last() -> None:
    assert top_indices(np.array([[np.nan, 1.0, 2.0]]), 3).tolist() == [[2, 1, 0]]


def test_rows_on_which_the_reference_gives_nan_alone_are_left_out() -> None:
    reference = np.array([[np.nan, np.nan, np.nan], [0.0, 1.0, 2.0]])
    engine = np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])
    decisions = Decisions()
    decisions.add(reference, engine, np.array([0, 2]))
    assert decisions.metrics()["agreement"]["engine"] == 0
    assert decisions.classes()[0]["label"] == 2
    nothing = Decisions()
    nothing.add(reference[:1], engine[:1], np.array([0]))
    assert (nothing.metrics(), nothing.classes(), nothing.tails()) == ({}, [], {})
    assert (decisions.rows, decisions.left_out, nothing.rows, nothing.left_out) == (1, 1, 0, 1)


def test_ties_go_to_the_lower_class() -> None:
    assert top_indices(np.array([[1.0, 1.0, 0.0]]), 1).tolist() == [[0]]


def test_the_interval_covers_the_loss_and_is_the_same_every_time() -> None:
    random = np.random.default_rng(1)
    reference = random.random(500) < 0.9
    engine = reference & (random.random(500) < 0.98)
    loss = 1 - engine.mean() / reference.mean()
    interval = paired_loss_interval(reference, engine)
    assert interval is not None
    assert interval[0] < loss < interval[1]
    assert interval[1] - interval[0] < 0.05
    assert interval == paired_loss_interval(reference, engine)


def test_the_interval_agrees_with_drawing_rows_one_by_one() -> None:
    random = np.random.default_rng(2)
    reference = random.random(300) < 0.8
    engine = np.where(random.random(300) < 0.95, reference, ~reference)
    drawn = random.integers(0, 300, (4000, 300))
    losses = 1 - engine[drawn].mean(axis=1) / reference[drawn].mean(axis=1)
    interval = paired_loss_interval(reference, engine)
    assert interval == pytest.approx(np.percentile(losses, (2.5, 97.5)).tolist(), abs=0.006)


def test_equal_verdicts_leave_no_doubt() -> None:
    verdicts = np.array([True, False, True])
    assert paired_loss_interval(verdicts, verdicts) == [0, 0]


def test_the_metric_follows_from_what_can_be_told() -> None:
    assert chosen_metric(Budget(), labels=True, scores=True) == "top1"
    assert chosen_metric(Budget(), labels=False, scores=True) == "agreement"
    assert chosen_metric(Budget(), labels=True, scores=False) == "cosine"
    assert chosen_metric(Budget("mae"), labels=False, scores=False) == "mae"
    with pytest.raises(InvalidRecipe, match="no output of the model is a vector of class scores; send mae or cosine"):
        chosen_metric(Budget("agreement"), labels=True, scores=False)
    with pytest.raises(InvalidRecipe, match="the rows have no labels; send agreement"):
        chosen_metric(Budget("top5"), labels=False, scores=True)


def test_class_scores_are_the_float_vectors_of_two_or_more_a_row() -> None:
    maps, single = np.zeros((2, 3, 4, 4), np.float32), np.zeros((2, 1), np.float32)
    integers, scores = np.zeros((2, 5), np.int64), np.zeros((2, 5, 1, 1), np.float32)
    outputs: dict[str, Array] = {
        "maps": maps,
        "single": single,
        "integers": integers,
        "scores": scores,
        "more": scores[:, :, 0],
    }
    assert scores_outputs(outputs, 2) == ("scores", "more")
    assert scores_outputs({"maps": maps, "single": single}, 2) == ()
    assert scores_outputs({"row": np.zeros(5, np.float32)}, 1) == ("row",)
    assert scores_outputs({"whole": np.zeros(5, np.float32)}, 2) == ()
