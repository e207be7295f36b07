"""Every figure of an output against numbers worked out by hand or by numpy at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.quantization.measures.figures import Floats, OutputFigures
from service.quantization.measures.row_mean import RowMean

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


def test_rows_that_the_reference_cannot_compute_are_no_rows_without_error() -> None:
    reference, engine = np.ones((4, 2)), np.array([[1.0, -1.0]] * 4)
    reference[1:] = np.nan
    output = OutputFigures("scores")
    output.add(reference, engine)
    assert (output.row_errors.mean, output.row_cosines.mean) == (1, 0)
    assert output.to_json()["compared"] == 2


def test_outputs_that_are_nowhere_finite_tell_nothing() -> None:
    found = figures_of(np.full((3, 4), np.nan), np.ones((3, 4)))
    assert (found["compared"], found["reference_not_finite"], found["cosine"], found["cosine_min"]) == (0, 12, 0, 0)


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e139])
def test_percentiles_of_errors_hold_at_any_scale(size: float) -> None:
    found = figures_of(REFERENCE * size, ENGINE * size)
    for percent in (50, 90, 99):
        wanted = np.percentile(np.abs(REFERENCE - ENGINE) * size, percent)
        assert found[f"p{percent}"] == pytest.approx(wanted, rel=0.02, abs=0)


def test_numbers_too_large_to_square_count_as_not_finite() -> None:
    reference, engine = np.array([[1e308, -1e308, 2.0, 3.0]]), np.array([[-1e308, -1e308, 1e200, 3.0]])
    found = figures_of(reference, engine)
    json.dumps(found, allow_nan=False)
    assert (found["reference_not_finite"], found["engine_not_finite"], found["compared"]) == (2, 2, 1)


def test_infinity_is_excused_only_where_the_reference_has_the_same() -> None:
    reference = np.array([[-np.inf, -np.inf, -np.inf, -np.inf, np.nan, 1.0]])
    engine = np.array([[-np.inf, np.inf, np.nan, -1e30, np.nan, 1.0]])
    found = figures_of(reference, engine)
    assert (found["reference_not_finite"], found["engine_not_finite"], found["compared"]) == (5, 2, 1)


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
