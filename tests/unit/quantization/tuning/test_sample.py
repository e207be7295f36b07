"""Rows to learn from and rows to be judged on are spread over the calibration rows, and apart where that can be."""

from __future__ import annotations

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.quantization.data.rows import Feed, Rows
from service.quantization.tuning.sample import Sample


def sample(count: int, limit: int = 10**6, batch: int = -1) -> Sample:
    rows = np.arange(count, dtype=np.float32).reshape(count, 1)
    return Sample.of(Feed.of(Rows("calibration", {"x": rows}, None), [TensorSpec("x", "FP32", (batch, 1))]), limit)


def rows_of(batches: object) -> set[float]:
    return {float(value) for batch in batches for value in batch["x"].reshape(-1)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [16, 40, 256, 5000])
def test_rows_to_judge_on_are_none_of_those_to_learn_from(count: int) -> None:
    made = sample(count)
    fit, held = rows_of(made.fit_batches()), rows_of(made.held_batches())
    assert fit
    assert held
    assert not fit & held
    assert len(fit) <= 128
    assert len(held) <= 32


def test_few_rows_serve_for_both() -> None:
    made = sample(3)
    assert rows_of(made.fit_batches()) == rows_of(made.held_batches()) == {0, 1, 2}


def test_only_rows_within_the_limit_are_taken() -> None:
    made = sample(1000, limit=64)
    assert max(rows_of(made.fit_batches()) | rows_of(made.held_batches()) | rows_of(made.all_batches())) < 64


def test_a_fixed_batch_keeps_its_size() -> None:
    assert {len(batch["x"]) for batch in sample(40, batch=5).fit_batches()} == {5}
