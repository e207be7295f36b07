"""Figures that the benchmarks compute by themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.detections import f1
from benchmarks.quantization_engines import compare


def test_agreement_counts_first_classes_and_sqnr_is_signal_over_error() -> None:
    reference = np.array([[3.0, 1.0], [0.0, 2.0]], np.float32)
    agreement, decibels = compare(reference, reference + np.array([[0, 0], [2.1, 0]], np.float32))
    assert agreement == 0.5
    assert decibels == pytest.approx(10 * math.log10(14 / 2.1**2), rel=1e-5)


def test_equal_outputs_have_no_error() -> None:
    assert compare(np.eye(3), np.eye(3)) == (1.0, math.inf)


def test_f1_falls_with_what_is_missed_and_with_what_is_made_up() -> None:
    truth = np.array([True, True, False, False])
    assert f1(truth, truth) == 1
    assert f1(truth, np.array([True, False, False, False])) == pytest.approx(2 / 3)
    assert f1(truth, np.array([True, True, True, True])) == pytest.approx(2 / 3)
    assert f1(truth, ~truth) == 0


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    nothing = np.zeros(3, np.bool_)
    assert f1(nothing, nothing) == 1
