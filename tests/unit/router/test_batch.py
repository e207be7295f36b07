"""One batch: rows joined for the engine, outputs split again, and failures kept to their own request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from service.domain.inference import Array
from service.errors import EngineFailed
from service.router import batch as batch_module
from service.router.answer import Answer
from service.router.batch import Batch, BatchRunner, Pending
from service.router.route import Route
from tests.fake_engine import FakeEngine, row, rows

ROUTE = Route("stable", "m", 1, "v")


def batch_of(*members: Mapping[str, Array]) -> Batch:
    pending = [Pending(inputs, None, len(inputs["x"]), None, ROUTE, Answer()) for inputs in members]
    return Batch(pending, sum(p.rows for p in pending))


def run(engine: FakeEngine, batch: Batch, max_rows: int = 8) -> Batch:
    BatchRunner(engine, max_rows, clock=lambda: 0.0).run(batch)
    return batch


def answers(batch: Batch) -> list[list[float] | str]:
    return [str(o) if isinstance(o, Exception) else o["y"].ravel().tolist() for o in batch.outcomes]


def test_joined_requests_each_get_their_own_rows_back() -> None:
    engine = FakeEngine()
    batch = run(engine, batch_of(row(1), rows(2, 3), row(4)))
    assert answers(batch) == [[1], [2, 3], [4]]
    assert engine.batches == [[1, 2, 3, 4]]


WIDE = 20_000


class WideEngine(FakeEngine):
    """Adds its rows up, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Array] = []

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        self.given.append(inputs["x"])
        return {"y": inputs["x"].sum(axis=1, keepdims=True)}


def test_rows_that_adjoin_in_memory_are_joined_without_a_copy_in_whatever_order_they_came() -> None:
    memory = np.repeat(np.arange(4, dtype=np.float32)[:, None], WIDE, axis=1)
    engine = WideEngine()
    batch = run(engine, batch_of({"x": memory[3:]}, {"x": memory[:1]}, {"x": memory[1:3]}))
    assert answers(batch) == [[0], [WIDE, 2 * WIDE], [3 * WIDE]]
    assert [pending.inputs["x"][0, 0] for pending in batch.members] == [0, 1, 3]
    assert engine.given[0].shape == memory.shape
    assert np.shares_memory(engine.given[0], memory)


def test_single_rows_are_joined_whatever_the_stride_of_their_first_axis_says() -> None:
    memory = np.repeat(np.arange(3, dtype=np.float32)[:, None], WIDE, axis=1)
    engine = WideEngine()
    assert answers(run(engine, batch_of(*({"x": each[None]} for each in memory)))) == [[0], [WIDE], [2 * WIDE]]
    assert np.shares_memory(engine.given[0], memory)


def test_rows_that_do_not_adjoin_are_copied() -> None:
    memory = np.repeat(np.arange(4, dtype=np.float32)[:, None], WIDE, axis=1)
    for places in ([0, 2], [3, 3], [2, 0]):
        engine = WideEngine()
        batch = batch_of(*({"x": memory[place : place + 1]} for place in places))
        answered = {id(pending.answer): place for pending, place in zip(batch.members, places, strict=True)}
        run(engine, batch)
        assert answers(batch) == [[answered[id(pending.answer)] * WIDE] for pending in batch.members]
        assert not np.shares_memory(engine.given[0], memory)


def test_a_bad_request_fails_alone_and_is_tried_once_more() -> None:
    engine = FakeEngine()
    engine.poison = 3
    batch = run(engine, batch_of(row(1), row(3), row(5)))
    assert answers(batch) == [[1], "a row is poisoned", [5]]
    assert engine.batches == [[1, 3, 5], [1], [3], [5]]


def test_a_single_failing_request_is_not_tried_again() -> None:
    engine = FakeEngine()
    engine.poison = 1
    assert answers(run(engine, batch_of(row(1)))) == ["a row is poisoned"]
    assert engine.batches == [[1]]


def test_a_failure_to_join_or_split_rows_is_told_to_every_member_and_spares_the_runner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError("no memory for the joined rows")

    engine = FakeEngine()
    runner = BatchRunner(engine, 8, clock=lambda: 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(np, "empty", no_memory)
        batch = batch_of(row(1), row(2))
        runner.run(batch)
    assert answers(batch) == [[1], [2]], "each alone needs no joining"
    monkeypatch.setattr(batch_module, "_split", no_memory)
    monkeypatch.setattr(batch_module, "_aligned", no_memory)
    batch = batch_of(row(1), row(2))
    runner.run(batch)
    assert answers(batch) == ["the engine failed on this batch: MemoryError: no memory for the joined rows"] * 2


def test_a_wrong_number_of_output_rows_fails_and_is_never_handed_out() -> None:
    engine = FakeEngine()
    engine.extra_rows = 1
    outcomes = run(engine, batch_of(row(1), row(2))).outcomes
    assert all(isinstance(outcome, EngineFailed) for outcome in outcomes)
    assert "answered shape [2, 1] of 'y' to 1 rows" in str(outcomes[0])


def test_an_exception_that_is_not_octavos_becomes_an_engine_failure_and_is_logged_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            raise MemoryError("no room")

    (outcome,) = run(Broken(), batch_of(row(1))).outcomes
    assert isinstance(outcome, EngineFailed)
    assert "MemoryError: no room" in str(outcome)
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_an_input_passed_through_as_output_survives_the_next_batch() -> None:
    class PassThrough(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            return {"y": inputs["x"]}

    runner = BatchRunner(PassThrough(), 8, clock=lambda: 0.0)
    first, second = batch_of(row(1), row(2)), batch_of(row(8), row(9))
    runner.run(first)
    runner.run(second)
    assert answers(first) == [[1, 0], [2, 0]]


def test_rows_of_another_shape_get_a_buffer_of_their_own() -> None:
    engine = FakeEngine()
    runner = BatchRunner(engine, 8, clock=lambda: 0.0)
    wide = {"x": np.ones((1, 5), np.float32)}
    for members, expected in (
        ((row(1), row(2)), [[1], [2]]),
        ((wide, wide), [[5], [5]]),
        ((row(3), row(4)), [[3], [4]]),
    ):
        batch = batch_of(*members)
        runner.run(batch)
        assert answers(batch) == expected


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_a_single_request_reaches_the_engine_aligned(offset: int) -> None:
    seen: list[bool] = []

    class Alignment(FakeEngine):
        def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
            seen.append(inputs["x"].flags.aligned)
            return super().infer(inputs, outputs)

    body = bytes(offset) + np.array([[7, 0]], np.float32).tobytes()
    array = np.frombuffer(body, np.float32, 2, offset).reshape(1, 2)
    assert answers(run(Alignment(), batch_of({"x": array}))) == [[7]]
    assert seen == [True]
