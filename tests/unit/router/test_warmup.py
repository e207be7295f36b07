"""What a fresh engine is run with before it serves, and what is learned from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from service.domain.inference import Array
from service.domain.tensor import TensorSpec
from service.errors import EngineFailed, InvalidTensor
from service.router.warmup import INLINE_SECONDS, WarmEngine, warm_up
from tests.fake_engine import FakeEngine


class TimedEngine(FakeEngine):
    """Takes `seconds_per_row` of a clock that only it moves."""

    def __init__(self, seconds_per_row: float) -> None:
        super().__init__()
        self.now = 0.0
        self._seconds_per_row = seconds_per_row

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self.now += self._seconds_per_row * len(inputs["x"])
        return super().infer(inputs, outputs)

    def clock(self) -> float:
        return self.now


def timed(seconds_per_row: float) -> tuple[FakeEngine, Callable[[], float]]:
    engine = TimedEngine(seconds_per_row)
    return engine, engine.clock


def test_every_power_of_two_up_to_the_largest_batch_is_run() -> None:
    engine, clock = timed(1e-6)
    assert warm_up(engine, 6, clock).max_rows == 6
    assert {len(batch) for batch in engine.batches} == {1, 2, 4, 6}


@pytest.mark.parametrize(("share_per_row", "inline_rows"), [(0.01, 8), (0.3, 2), (1.5, 0)])
def test_as_many_rows_run_inline_as_fit_the_allowance(share_per_row: float, inline_rows: int) -> None:
    engine, clock = timed(INLINE_SECONDS * share_per_row)
    assert warm_up(engine, 8, clock).inline_rows == inline_rows


@pytest.mark.parametrize(
    ("takes", "max_rows"),
    [
        (TensorSpec("x", "FP32", (-1, -1)), 8),
        (TensorSpec("x", "BYTES", (-1, 2)), 8),
        (TensorSpec("x", "FP32", (-1, 2)), 0),
        (TensorSpec("x", "FP32", (1, -1)), 8),
    ],
    ids=["an open axis", "texts", "a first axis that is no batch", "an open axis and no batch"],
)
def test_an_engine_whose_requests_may_be_larger_than_what_was_timed_never_runs_inline(
    takes: TensorSpec, max_rows: int
) -> None:
    class Any(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            return {"y": np.ones((len(inputs["x"]), 1), np.float32)}

    assert warm_up(Any(inputs=(takes,)), max_rows, lambda: 0.0).inline_rows == 0


@pytest.mark.parametrize(
    ("seconds", "saturating_rows"),
    [
        ({1: 0.0047, 2: 0.0091, 4: 0.0181, 8: 0.0369, 16: 0.078}, 2),
        ({1: 0.010, 2: 0.011, 4: 0.013, 8: 0.017, 16: 0.034}, 8),
        ({1: 0.010, 2: 0.011, 4: 0.013, 8: 0.017, 16: 0.025}, 32),
        ({1: 0.5}, 32),
        ({}, 32),
    ],
    ids=["a row a core", "a parallel device", "rows are nearly free", "too slow to measure more", "never measured"],
)
def test_a_batch_saturates_the_engine_where_more_rows_are_answered_no_faster(
    seconds: dict[int, float], saturating_rows: int
) -> None:
    assert WarmEngine(FakeEngine(), 32, 0, seconds).saturating_rows == saturating_rows


def test_rows_that_are_never_joined_saturate_nothing() -> None:
    assert WarmEngine(FakeEngine(), 0, 0, {1: 0.1}).saturating_rows == 0


def test_each_batch_size_is_timed_three_times_though_it_is_slow() -> None:
    engine, clock = timed(0.1)
    warm_up(engine, 2, clock)
    assert [len(batch) for batch in engine.batches].count(2) >= 3


def test_a_slow_engine_is_not_warmed_for_minutes() -> None:
    engine, clock = timed(6.0)
    assert warm_up(engine, 32, clock).max_rows == 32
    assert max(len(batch) for batch in engine.batches) == 2


class LanedEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.warmed: list[int] = []

    def warm_lanes(self, inputs: Mapping[str, Array]) -> None:
        self.warmed.append(len(inputs["x"]))


def test_every_lane_is_run_at_every_size_the_largest_first() -> None:
    engine = LanedEngine()
    warm_up(engine, 6, timed(1e-6)[1])
    assert engine.warmed == [6, 4, 2, 1]


def test_what_running_compiled_is_kept_once_when_all_sizes_ran() -> None:
    class Compiled(LanedEngine):
        kept: tuple[int, ...] = ()

        def keep_compiled(self) -> None:
            self.kept = (*self.kept, len(self.warmed))

    engine = Compiled()
    warm_up(engine, 6, timed(1e-6)[1])
    assert engine.kept == (4,)


def test_lanes_are_run_at_no_size_that_warming_did_not_reach() -> None:
    class Slow(LanedEngine):
        now = 0.0

        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            self.now += 6.0 * len(inputs["x"])
            return super().infer(inputs, outputs)

    engine = Slow()
    warm_up(engine, 32, lambda: engine.now)
    assert engine.warmed == [2, 1] or engine.warmed == [1]


def test_an_engine_that_mixes_rows_is_not_batched() -> None:
    class Softmax(FakeEngine):
        """A first axis that is a sequence: every answer depends on the rows beside it."""

        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            sums = inputs["x"].sum(axis=1, keepdims=True)
            return {"y": np.exp(sums) / np.exp(sums).sum()}

    _, clock = timed(0)
    assert warm_up(Softmax(), 8, clock).max_rows == 0


class Ranked(FakeEngine):
    """Answers with `datatype` whether a row's sum is above the mean of its batch: nothing but what mixes rows."""

    def __init__(self, datatype: str) -> None:
        super().__init__(outputs=(TensorSpec("y", datatype, (-1, 1)),))

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        sums = inputs["x"].sum(axis=1, keepdims=True)
        above = sums > sums.mean()
        if self.outputs[0].datatype == "BYTES":
            return {"y": np.where(above, b"above", b"below").astype(np.object_)}
        return {"y": above.astype(self.outputs[0].dtype)}


@pytest.mark.parametrize("datatype", ["INT64", "UINT8", "BOOL", "BYTES"])
def test_an_engine_that_mixes_rows_into_an_output_without_fractions_is_not_batched(datatype: str) -> None:
    assert warm_up(Ranked(datatype), 8, timed(0)[1]).max_rows == 0


class Tied(FakeEngine):
    """The place of a row's largest number, which nearly equal ones leave to the batch size in runs of two rows."""

    def __init__(self, ties: Sequence[bool]) -> None:
        """`ties` tells for each run of two rows whether it meets a tie; runs beyond them do not."""
        super().__init__(outputs=(TensorSpec("y", "INT64", (-1, 1)),))
        self._ties = iter(ties)

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        places = inputs["x"].argmax(axis=1, keepdims=True)
        return {"y": 1 - places if len(places) == 2 and next(self._ties, False) else places}


@pytest.mark.parametrize(("ties", "max_rows"), [((True,), 8), ((True, True), 0), ((True, False, True), 0)])
def test_one_tie_that_falls_otherwise_in_a_batch_is_no_mixing_and_a_second_is(
    ties: tuple[bool, ...], max_rows: int
) -> None:
    assert warm_up(Tied(ties), 8, timed(0)[1]).max_rows == max_rows


@pytest.mark.parametrize(("factor", "max_rows"), [(1.02, 8), (2.0, 0)])
def test_rows_in_bf16_are_compared_as_the_numbers_that_they_are(factor: float, max_rows: int) -> None:
    class Half(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            sums = inputs["x"].sum(axis=1, keepdims=True)
            return {"y": ((sums * factor if len(sums) == 2 else sums).view(np.uint32) >> 16).astype(np.uint16)}

    engine = Half(outputs=(TensorSpec("y", "BF16", (-1, 1)),))
    assert warm_up(engine, 8, timed(0)[1]).max_rows == max_rows


@pytest.mark.parametrize("fault", ["rows", "shapes"])
def test_an_engine_that_miscounts_or_fails_at_two_rows_is_not_batched(fault: str) -> None:
    class OneRowOnly(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            if len(inputs["x"]) > 1 and fault == "shapes":
                raise EngineFailed("Reshape wants one row")
            return {"y": super().infer(inputs, outputs)["y"][:1]}

    _, clock = timed(0)
    assert warm_up(OneRowOnly(), 8, clock).max_rows == 0


def test_an_engine_that_was_built_for_one_row_is_served_and_not_batched() -> None:
    class OneRow(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            if len(inputs["x"]) > 1:
                raise InvalidTensor("this engine was built for 1 to 1 rows")
            return super().infer(inputs, outputs)

    assert warm_up(OneRow(), 1, lambda: 0.0).max_rows == 0


def test_an_engine_with_a_fixed_first_axis_is_not_batched() -> None:
    engine = FakeEngine(inputs=(TensorSpec("x", "FP32", (1, 2)),), outputs=(TensorSpec("y", "FP32", (1, 1)),))
    warm = warm_up(engine, 8, lambda: 0.0)
    assert (warm.max_rows, warm.inline_rows) == (0, 1)


def test_an_engine_whose_output_has_axes_that_it_does_not_state_is_not_batched() -> None:
    engine = FakeEngine(outputs=(TensorSpec("y", "FP32", ()),))
    warm = warm_up(engine, 8, lambda: 0.0)
    assert (warm.max_rows, engine.closed) == (0, False)


def test_an_engine_that_cannot_run_at_all_is_refused() -> None:
    class Broken(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            raise EngineFailed("no kernel")

    with pytest.raises(EngineFailed, match="no kernel"):
        warm_up(Broken(), 8, lambda: 0.0)
