"""What ranks classes follows from the model, not from how many rows happen to be sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.errors import EngineFailed
from service.quantization.data.rows import Feed, Rows
from service.quantization.preparation.ranked_outputs import ranked_outputs


class Computed:
    """An engine that is a Python function of its input; it counts its runs."""

    def __init__(self, function: Callable[[Array], Array], inputs: Sequence[int], most: int = 1000) -> None:
        self._function, self._most, self.runs = function, most, 0
        self.inputs = (TensorSpec("x", "FP32", tuple(inputs)),)
        self.outputs = (TensorSpec("y", "FP32", (-1, 5)),)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self.runs += 1
        if len(inputs["x"]) > self._most:
            raise EngineFailed("too many rows")
        return {"y": self._function(inputs["x"])}

    def close(self) -> None:
        return None


def ranked(engine: Computed, rows: Array) -> tuple[str, ...]:
    return ranked_outputs(engine, Feed.of(Rows("validation", {"x": rows}, None), engine.inputs))


def random(*shape: int) -> Array:
    return np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)


def falling(x: Array) -> Array:
    return -np.sort(-x, axis=1)


@pytest.mark.parametrize("rows", [1, 2, 5, 32, 33])
def test_a_vector_a_row_ranks_and_one_of_the_whole_batch_does_not(rows: int) -> None:
    assert ranked(Computed(lambda x: x, (-1, 5)), random(rows, 5)) == ("y",)
    assert ranked(Computed(lambda x: x.mean(axis=0), (-1, 5)), random(rows, 5)) == ()
    assert ranked(Computed(lambda x: x.mean(axis=0, keepdims=True), (-1, 5)), random(rows, 5)) == ()


def test_a_model_of_one_row_is_judged_by_that_row() -> None:
    assert ranked(Computed(lambda x: x, (5,)), random(12, 5)) == ("y",)
    assert ranked(Computed(lambda x: x, (3, 5)), random(12, 5)) == ("y",)


def test_a_model_that_fails_on_more_rows_than_one_may_rank() -> None:
    assert ranked(Computed(lambda x: x, (-1, 5), most=1), random(1, 5)) == ("y",)


def test_rows_that_are_all_in_falling_order_rank_nothing_unless_few_or_pairs() -> None:
    assert ranked(Computed(falling, (-1, 5)), random(40, 5)) == ()
    assert ranked(Computed(falling, (-1, 5)), random(7, 5)) == ("y",)
    assert ranked(Computed(falling, (-1, 2)), random(40, 2)) == ("y",)


def test_one_row_that_is_not_in_falling_order_is_enough_however_late_it_comes() -> None:
    rows = falling(random(200, 5))
    rows[180] = rows[180, ::-1]
    assert ranked(Computed(lambda x: x, (-1, 5)), rows) == ("y",)


def test_rows_of_nan_alone_are_in_no_order() -> None:
    assert ranked(Computed(lambda x: x * np.float32(np.nan), (-1, 5)), random(40, 5)) == ("y",)


def test_no_more_rows_are_run_than_it_takes() -> None:
    engine = Computed(lambda x: x, (-1, 5))
    ranked(engine, random(500, 5))
    assert engine.runs == 3
