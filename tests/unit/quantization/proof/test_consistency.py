"""An engine that answers one row in two ways is caught, and one that keeps its promises is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import EngineFailed
from service.quantization.data.rows import Feed, Rows
from service.quantization.proof.consistency import Check, check_consistency, difference
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.small_models import classifier, fp32, images, saved

X = TensorSpec("x", "FP32", (-1, 3))


class Doubling:
    """y = 2 x, spoilt by a function of (answers, inputs)."""

    inputs = (X,)
    outputs = (TensorSpec("y", "FP32", (-1, 3)),)

    def __init__(self, spoil: Callable[[Array, Array], Array] = lambda y, x: y) -> None:
        self._spoil = spoil

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        x = inputs["x"]
        return {"y": self._spoil(2 * x, x)}

    def close(self) -> None:
        return None


def checks(engine: Doubling, reference: Doubling | None = None, fixed: int = 0) -> dict[str, Check]:
    rows = np.random.default_rng(0).normal(0, 1, (20, 3)).astype(np.float32)
    feed = Feed(Rows("validation", {"x": rows}, None), (X,), fixed)
    found = check_consistency(engine, reference or Doubling(), feed, ("int8", (1, 4, 8)))
    return {check.name: check for check in found}


def fails_on_no_rows(y: Array, x: Array) -> Array:
    if len(x) == 0:
        raise ZeroDivisionError("integer division by zero")
    return y


def refuses_no_rows(y: Array, x: Array) -> Array:
    if len(x) == 0:
        raise EngineFailed("rows is 0; send 1 to 8")
    return y


def test_an_engine_that_keeps_every_promise_is_not_accused() -> None:
    assert {name: check.held for name, check in checks(Doubling()).items()} == dict.fromkeys(
        ("batch_size", "row_order", "identical_rows", "nan_neighbour", "zero_rows"), True
    )


@pytest.mark.parametrize(
    ("promise", "spoil", "words"),
    [
        ("batch_size", lambda y, x: y * (1 + len(x) / 10), "at batch 1 and 8 differ by"),
        ("row_order", lambda y, x: y + np.arange(len(y))[:, None], "rows in another order differ by"),
        ("identical_rows", lambda y, x: y * fp32([1] * (len(y) - 1) + [2])[:, None], "identical rows of one batch"),
        ("nan_neighbour", lambda y, x: y + 0 * x.sum(), "beside a row of nan differ by NaN, infinity"),
        ("zero_rows", fails_on_no_rows, "failed with ZeroDivisionError: integer division by zero"),
        ("zero_rows", lambda y, x: y if len(y) else np.zeros((1, 3), np.float32), "answers 'y' to no rows"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_broken_promise_is_named_with_its_measure(
    promise: str, spoil: Callable[[Array, Array], Array], words: str
) -> None:
    check = checks(Doubling(spoil))[promise]
    assert check.held is False
    assert words in check.detail


def test_a_fault_at_a_batch_larger_than_the_rows_that_are_compared_is_found() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (20, 3)).astype(np.float32)
    feed = Feed(Rows("validation", {"x": rows}, None), (X,), 0)
    engine = Doubling(lambda y, x: y if len(x) <= 32 else -y)
    found = check_consistency(engine, Doubling(), feed, ("int8", (1, 64)))
    assert found[0].detail.startswith("answers 'y' at batch 64 and 32 differ by 3")


def test_differences_of_rounding_are_within_the_stated_tolerance() -> None:
    check = checks(Doubling(lambda y, x: y * (1 + len(x) / 1000)))["batch_size"]
    assert check.held is True
    assert check.worst is not None
    assert check.tolerance == 0.05
    assert 0.001 < check.worst < 0.05


def test_a_promise_that_the_float_model_breaks_too_is_not_judged() -> None:
    by_mean = Doubling(lambda y, x: y - y.mean(axis=0))
    check = checks(by_mean, by_mean)["batch_size"]
    assert check.held is None
    assert "the float model does not keep it either" in check.detail


def test_a_refusal_of_no_rows_is_an_answer() -> None:
    assert checks(Doubling(refuses_no_rows))["zero_rows"].held is True


def test_with_a_fixed_batch_only_order_and_neighbours_are_judged() -> None:
    held = {name: check.held for name, check in checks(Doubling(), fixed=4).items()}
    assert held["batch_size"] is None
    assert held["zero_rows"] is None
    assert held["row_order"] is True


def test_nan_that_comes_or_goes_is_an_infinite_difference() -> None:
    assert difference(np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]])) == float("inf")
    assert difference(np.array([[1.0, np.nan]]), np.array([[1.0, np.nan]])) == 0
    assert difference(np.zeros((1, 2)), np.ones((1, 2))) == float("inf")


def test_a_real_int8_engine_keeps_every_promise(tmp_path: Path) -> None:
    model, _ = quantize(classifier(), {"x": images(32)}, tmp_path)
    engine = OnnxRuntimeEngine.load(saved(model, tmp_path / "int8.onnx"), 1)
    reference = OnnxRuntimeEngine.load(saved(classifier(), tmp_path / "float.onnx"), 1)
    feed = Feed.of(Rows("validation", {"x": images(12, 4)}, None), engine.inputs)
    found = check_consistency(engine, reference, feed, ("int8", (1, 2, 16)))
    assert [(check.name, check.detail) for check in found if not check.held] == []


def test_infinity_that_changes_sides_or_becomes_nan_is_a_difference() -> None:
    masked = np.array([[1.0, -np.inf], [2.0, np.nan]])
    assert difference(masked, masked.copy()) == 0
    for other in (np.array([[1.0, np.inf], [2.0, np.nan]]), np.array([[1.0, np.nan], [2.0, np.nan]])):
        assert difference(masked, other) == np.inf
