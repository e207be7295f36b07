"""Rows are made up for engines of open axes until one runs; where none fits, an engine is served without having run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from service.domain.inference import Array
from service.domain.tensor import TensorSpec
from service.errors import DeviceFailed, EngineFailed, InvalidTensor, OctavoError
from service.router.warmup import warm_up
from tests.fake_engine import FakeEngine


class Picky(FakeEngine):
    """Takes rows whose open axis is of one of `lengths`, and raises `refusal` of others."""

    def __init__(self, *lengths: int, refusal: type[OctavoError] = InvalidTensor) -> None:
        super().__init__(inputs=(TensorSpec("x", "FP32", (-1, -1)),))
        self._lengths = lengths
        self._refusal = refusal

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        if inputs["x"].shape[1] not in self._lengths:
            raise self._refusal(f"no map is left of {inputs['x'].shape[1]} positions")
        return super().infer(inputs, outputs)


def test_an_engine_that_takes_no_short_rows_is_warmed_with_longer_ones() -> None:
    engine = Picky(64, 224)
    warm = warm_up(engine, 4, lambda: 0.0)
    assert (warm.max_rows, warm.inline_rows) == (4, 0)
    assert {len(batch) for batch in engine.batches} == {1, 2, 4}


def test_an_engine_that_takes_none_of_the_lengths_tried_is_served_cold(caplog: pytest.LogCaptureFixture) -> None:
    engine = Picky(77)
    warm = warm_up(engine, 4, lambda: 0.0)
    assert (warm.max_rows, warm.inline_rows, warm.seconds) == (0, 0, {})
    assert "served cold" in caplog.text
    assert "no map is left of 1 positions" in str([record.__dict__.get("reason") for record in caplog.records])
    assert not engine.closed


def test_an_engine_that_fails_of_more_than_its_shapes_is_not_served() -> None:
    with pytest.raises(EngineFailed, match="no map is left of 1 positions"):
        warm_up(Picky(77, refusal=EngineFailed), 4, lambda: 0.0)
    assert warm_up(Picky(64, refusal=EngineFailed), 4, lambda: 0.0).max_rows == 4


class Knowing(FakeEngine):
    """Takes no row with a zero, though its shapes are fixed."""

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        if not inputs["x"].all():
            raise InvalidTensor("Unknown Category")
        return super().infer(inputs, outputs)


def test_an_engine_that_does_not_know_zeros_is_served_cold(caplog: pytest.LogCaptureFixture) -> None:
    engine = Knowing()
    warm = warm_up(engine, 4, lambda: 0.0)
    assert (warm.max_rows, warm.inline_rows, warm.seconds) == (0, 0, {})
    assert "served cold" in caplog.text
    assert not engine.closed


def test_lengths_are_not_looked_for_for_ever() -> None:
    engine, seconds = Picky(224), iter(range(0, 1000, 6))
    assert warm_up(engine, 4, lambda: next(seconds)).seconds == {}


@pytest.mark.parametrize(
    ("specs", "takes"),
    [
        (
            {"ids": (-1, -1), "mask": (-1, -1), "cache": (-1, 2, -1, 4)},
            {"ids": (1, 1), "mask": (1, 2), "cache": (1, 2, 1, 4)},
        ),
        ({"sound": (-1, -1), "state": (2, -1, 8)}, {"sound": (1, 512), "state": (2, 1, 8)}),
    ],
    ids=["a mask over a cache and one more", "a batch that is no first axis"],
)
def test_axes_that_depend_on_each_other_are_found_one_at_a_time(
    specs: dict[str, tuple[int, ...]], takes: dict[str, tuple[int, ...]]
) -> None:
    class Dependent(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            if {name: array.shape for name, array in inputs.items()} != takes:
                raise EngineFailed("the axes do not agree")
            return {"y": np.ones((1, 1), np.float32)}

    engine = Dependent(inputs=tuple(TensorSpec(name, "FP32", shape) for name, shape in specs.items()))
    assert set(warm_up(engine, 4, lambda: 0.0).seconds) == {1}


def test_a_wide_input_beside_an_open_axis_is_batched_like_any_other() -> None:
    engine = FakeEngine(inputs=(TensorSpec("x", "FP32", (-1, 2**22)), TensorSpec("boxes", "FP32", (-1, -1))))
    assert warm_up(engine, 2, lambda: 0.0).max_rows == 2


def test_an_engine_whose_device_is_lost_while_its_lengths_are_guessed_is_not_served() -> None:
    engine = FakeEngine(inputs=(TensorSpec("x", "FP32", (-1, -1)),))
    engine.device_lost = True
    with pytest.raises(DeviceFailed):
        warm_up(engine, 4, lambda: 0.0)
