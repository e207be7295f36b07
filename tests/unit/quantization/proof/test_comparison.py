"""Both engines see the same rows, and outputs that cannot be compared are told apart from those that differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.errors import StageFailed
from service.quantization.data.rows import Feed, Rows
from service.quantization.proof.comparison import compare

X = TensorSpec("x", "FP32", (-1, 3))


class Computed:
    """An engine that is a Python function of its input."""

    inputs = (X,)

    def __init__(self, **outputs: Callable[[Array], Array]) -> None:
        self._functions = outputs
        datatypes = {name: "BYTES" if name == "words" else "FP32" for name in outputs}
        self.outputs = tuple(TensorSpec(name, datatypes[name], (-1, 3)) for name in outputs)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        return {name: function(inputs["x"]) for name, function in self._functions.items()}

    def close(self) -> None:
        return None


def compared(reference: Computed, engine: Computed, rows: int = 70) -> dict[str, Any]:
    values = np.random.default_rng(0).normal(0, 1, (rows, 3)).astype(np.float32)
    feed = Feed.of(Rows("validation", {"x": values}, None), [X])
    return compare(reference, engine, feed, lambda fraction: None)


def test_every_row_of_every_output_is_compared() -> None:
    found = compared(Computed(y=lambda x: x, z=lambda x: 2 * x), Computed(y=lambda x: x - 0.5, z=lambda x: 2 * x))
    assert [output["mean_error"] for output in found["outputs"]] == [pytest.approx(0.5), 0]
    assert sum(found["outputs"][0]["histogram"]["counts"]) == 210
    assert found["scores"] == "y"
    assert found["metrics"]["agreement"]["engine"] == 1


def test_the_output_that_agrees_least_counts_and_says_so() -> None:
    found = compared(Computed(y=lambda x: x, z=lambda x: x), Computed(y=lambda x: x, z=lambda x: -x))
    assert (found["scores"], found["metrics"]["agreement"]["output"]) == ("z", "z")
    assert found["metrics"]["agreement"]["loss"] > 0.5
    assert found["metrics"]["cosine"]["output"] == "z"
    assert [output["float"] for output in found["outputs"]] == [True, True]


def test_mae_and_cosine_are_those_of_the_output_that_fares_worst() -> None:
    metrics = compared(Computed(y=lambda x: x, z=lambda x: x), Computed(y=lambda x: x + 1, z=lambda x: -x))["metrics"]
    assert metrics["mae"]["engine"] > 1
    assert metrics["cosine"]["engine"] == pytest.approx(-1)
    assert metrics["cosine"]["loss"] == pytest.approx(2)


def test_outputs_of_text_are_left_out() -> None:
    def words(x: Array) -> Array:
        return np.full((len(x), 3), b"w", object)

    found = compared(Computed(y=lambda x: x, words=words), Computed(y=lambda x: x, words=words))
    assert [output["name"] for output in found["outputs"]] == ["y"]


def test_outputs_of_different_shape_cannot_be_compared() -> None:
    with pytest.raises(StageFailed, match=r"output 'y' has shape \[32, 3\] from the reference but \[32, 2\] from the"):
        compared(Computed(y=lambda x: x), Computed(y=lambda x: x[:, :2]))


def test_an_output_without_a_row_axis_is_compared_whole() -> None:
    found = compared(Computed(y=lambda x: x.sum(axis=0)), Computed(y=lambda x: x.sum(axis=0) + 1))
    assert found["scores"] is None
    assert found["metrics"]["mae"]["engine"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("rows", [32, 33, 64, 65])
def test_an_output_without_a_row_axis_never_ranks_whatever_the_number_of_rows(rows: int) -> None:
    whole = compared(Computed(y=lambda x: x.sum(axis=0)), Computed(y=lambda x: x.sum(axis=0)), rows)
    assert (whole["scores"], whole["ranked"], "agreement" in whole["metrics"]) == (None, [], False)


def test_outputs_that_are_always_sorted_tell_no_agreement() -> None:
    def falling(x: Array) -> Array:
        return -np.sort(-x, axis=1)

    found = compared(Computed(y=falling), Computed(y=lambda x: falling(x[::-1])))
    assert found["scores"] is None
    assert "agreement" not in found["metrics"]
    assert found["metrics"]["mae"]["loss"] > 0


def test_rows_of_which_the_reference_tells_nothing_are_counted_apart() -> None:
    def partly(x: Array) -> Array:
        return np.where(x[:, :1] > 0, x, np.float32(np.nan))

    found = compared(Computed(y=partly), Computed(y=partly))
    for figures in (*found["metrics"].values(), *found["outputs"]):
        assert figures["rows"] + figures["rows_left_out"] == 70
        assert 10 < figures["rows"] < 60
