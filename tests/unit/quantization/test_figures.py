"""Every figure of an output against numbers worked out by hand or by numpy at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.quantization.figures import Floats, OutputFigures
from service.quantization.row_mean import RowMean
from service.quantization.row_similarity import RowSimilarity

RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(0, 3, (400, 10))
NUMBERS = st.floats(-1e9, 1e9)
ENGINE = REFERENCE + RANDOM.normal(0.01, 0.1, (400, 10))


def figures_of(reference: Floats, engine: Floats, parts: int = 1) -> dict[str, Any]:
    output = OutputFigures("scores")
    for ours, theirs in zip(np.array_split(reference, parts), np.array_split(engine, parts), strict=True):
        output.add(ours, theirs)
    return output.to_json()


def test_figures_are_those_of_the_whole_however_it_was_cut() -> None:
    error = REFERENCE - ENGINE
    found = figures_of(REFERENCE, ENGINE, parts=7)
    assert found["mean_error"] == pytest.approx(error.mean())
    assert found["mean_absolute_error"] == pytest.approx(np.abs(error).mean())
    assert found["max"] == np.abs(error).max()
    for percent in (50, 90, 99):
        assert found[f"p{percent}"] == pytest.approx(np.percentile(np.abs(error), percent), rel=0.02)
    assert found["sqnr_db"] == pytest.approx(10 * np.log10((REFERENCE**2).sum() / (error**2).sum()))
    lengths = np.linalg.norm(REFERENCE, axis=1) * np.linalg.norm(ENGINE, axis=1)
    cosines = (REFERENCE * ENGINE).sum(axis=1) / lengths
    assert found["cosine"] == pytest.approx(cosines.mean())
    assert found["cosine_min"] == pytest.approx(cosines.min())


def test_the_error_is_the_reference_minus_the_engine() -> None:
    assert figures_of(np.array([[3.0]]), np.array([[1.0]]))["mean_error"] == 2


def test_equal_outputs_have_no_error_and_no_ratio() -> None:
    found = figures_of(REFERENCE, REFERENCE)
    assert (found["mean_error"], found["max"], found["cosine"], found["sqnr_db"]) == (0, 0, pytest.approx(1), None)
    assert sum(found["histogram"]["counts"]) == REFERENCE.size


def test_the_shown_histogram_is_centred_on_zero_and_holds_every_error() -> None:
    shown = figures_of(REFERENCE, ENGINE)["histogram"]
    assert shown["low"] == -shown["high"]
    assert len(shown["counts"]) == 64
    assert sum(shown["counts"]) == REFERENCE.size
    assert shown["high"] >= np.abs(REFERENCE - ENGINE).max()
    assert shown["high"] < np.abs(REFERENCE - ENGINE).max() * 1.3


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    reference = np.array([[1.0, np.nan, 3.0, 4.0]])
    engine = np.array([[1.5, 2.0, np.inf, 4.0]])
    found = figures_of(reference, engine)
    assert (found["reference_not_finite"], found["engine_not_finite"]) == (1, 1)
    assert found["mean_absolute_error"] == 0.25
    assert found["max"] == 0.5


def test_a_row_without_a_number_on_both_sides_counts_for_nothing() -> None:
    reference = np.array([[np.nan, np.nan], [1.0, 1.0]])
    engine = np.array([[1.0, 1.0], [1.0, -1.0]])
    output = OutputFigures("scores")
    output.add(reference, engine)
    assert output.to_json()["cosine"] == pytest.approx(0)
    assert output.row_errors.mean == 1
    assert output.to_json()["compared"] == 2


def test_an_output_without_any_number_has_figures_that_json_can_hold() -> None:
    found = figures_of(np.full((3, 2), np.nan), np.ones((3, 2)))
    assert (found["compared"], found["cosine"], found["cosine_min"]) == (0, 1, 1)


def test_rows_of_one_number_are_compared_as_one_vector_over_all_rows() -> None:
    reference = RANDOM.normal(1, 1, (500, 1)) ** 2
    constant = np.full((500, 1), reference.mean())
    found = figures_of(reference, constant, parts=7)
    expected = reference.sum() / np.sqrt(500) / np.linalg.norm(reference)
    assert found["cosine"] == found["cosine_min"] == pytest.approx(expected)
    assert found["cosine"] < 0.9
    assert figures_of(reference, reference, parts=7)["cosine"] == pytest.approx(1)
    assert figures_of(reference * 1e100, reference * 1e-100)["cosine"] == pytest.approx(1)


def test_one_number_that_is_zero_on_one_side_alone_is_a_cosine_of_zero() -> None:
    assert figures_of(np.ones((4, 1)), np.zeros((4, 1)))["cosine"] == 0
    assert figures_of(np.zeros((4, 1)), np.zeros((4, 1)))["cosine"] == 1


def test_the_interval_of_a_cosine_over_rows_is_that_of_drawing_rows_again() -> None:
    reference = RANDOM.normal(2, 1, (400, 1))
    engine = reference + RANDOM.normal(0, 0.5, (400, 1))
    similarity = RowSimilarity()
    similarity.add(reference, engine)
    drawn = []
    for _ in range(500):
        rows = RANDOM.integers(0, 400, 400)
        again = RowSimilarity()
        again.add(reference[rows], engine[rows])
        drawn.append(again.mean)
    assert similarity.interval == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=2e-3)


def test_zero_rows_have_a_cosine_too() -> None:
    zero, one = np.zeros((1, 3)), np.ones((1, 3))
    assert figures_of(zero, zero)["cosine"] == 1
    assert figures_of(zero, one)["cosine"] == 0
    assert figures_of(one, -one)["cosine"] == pytest.approx(-1)


@given(arrays(np.float64, (3, 4), elements=NUMBERS), arrays(np.float64, (3, 4), elements=NUMBERS))
@settings(max_examples=60, deadline=None)
def test_no_pair_of_outputs_breaks_a_figure(reference: Floats, engine: Floats) -> None:
    found = figures_of(reference, engine)
    assert sum(found["histogram"]["counts"]) == 12
    assert -1 <= found["cosine"] <= 1
    assert found["p50"] <= found["p90"] <= found["p99"] <= found["max"]


def test_the_interval_of_a_mean_shrinks_with_the_rows() -> None:
    few, many = RowMean(), RowMean()
    few.add(RANDOM.normal(5, 1, 50))
    many.add(RANDOM.normal(5, 1, 5000))
    assert few.interval[0] < 5 < few.interval[1]
    assert many.interval[1] - many.interval[0] < (few.interval[1] - few.interval[0]) / 5
