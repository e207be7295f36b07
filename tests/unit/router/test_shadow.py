"""Mirrored requests: compared and counted, never seen by the caller."""

from __future__ import annotations

import numpy as np
import pytest

from service.router.shadow import agree


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([[1.0, 2.0, 0.5]], [[10.0, 11.0, -3.0]], True),
        ([[1.0, 2.0, 0.5]], [[2.0, 1.0, 0.5]], False),
        ([[1.0, 2.0], [2.0, 1.0]], [[1.0, 2.0], [1.0, 2.0]], False),
        ([[100.0]], [[101.0]], True),
        ([[100.0]], [[103.0]], False),
        ([[1.0, 2.0]], [[1.0, 2.0, 3.0]], False),
        ([], [], True),
    ],
)
def test_answers_agree_by_top_class_or_within_two_percent(
    one: list[list[float]], other: list[list[float]], same: bool
) -> None:
    assert agree({"y": np.array(one, np.float32)}, {"y": np.array(other, np.float32)}) is same


def test_integers_and_names_must_be_equal() -> None:
    assert agree({"y": np.array([1, 2])}, {"y": np.array([1, 2])})
    assert not agree({"y": np.array([1, 2])}, {"y": np.array([1, 3])})
    assert not agree({"y": np.array([1, 2])}, {"z": np.array([1, 2])})
