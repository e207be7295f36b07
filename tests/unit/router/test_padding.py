"""Requests of different lengths share a batch by padding that is proven to leave answers alone, and get theirs back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import pytest

from service.domain.batching import Batching, Padding
from service.domain.inference import Array, InferRequest
from service.domain.tensor import TensorSpec
from service.errors import InvalidInput, InvalidTensor
from service.router import padding
from service.router.padding_proof import proven_padder
from tests.unit.router.bench import ROUTE, Bench, run, values

SEQUENCE = TensorSpec("x", "FP32", (-1, -1))
PADDED = Batching(padding=Padding((4, 8)))


def of_length(length: int) -> InferRequest:
    return InferRequest({"x": np.full((1, length), 1, np.float32)})


def test_lengths_of_one_bucket_share_a_batch_and_others_do_not() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.prove(PADDED)
        bench.replica.follow(PADDED)
        first = await bench.busy()
        bench.engine.batches.clear()
        sent = [bench.replica.submit(of_length(length), ROUTE) for length in (2, 3, 4, 5, 9)]
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 2, 3, 4, 5, 9]
        assert bench.engine.batches == [[0], [1, 1, 1], [1], [1]]

    run(scenario, takes=SEQUENCE)


def test_what_was_not_proven_is_not_padded() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.follow(PADDED)
        assert await values(*[bench.replica.submit(of_length(length), ROUTE) for length in (2, 3)]) == [2, 3]
        assert bench.engine.batches == [[1], [1]]

    run(scenario, takes=SEQUENCE)


def test_a_request_that_is_not_as_it_should_be_is_refused_as_without_padding() -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.prove(PADDED)
        bench.replica.follow(PADDED)
        for inputs in (
            {},
            {"z": np.zeros((1, 2), np.float32)},
            {"x": np.zeros(2, np.float32)},
            {"x": np.zeros((1, 2))},
        ):
            with pytest.raises(InvalidTensor):
                bench.replica.submit(InferRequest(inputs), ROUTE)

    run(scenario, takes=SEQUENCE)


def test_a_request_that_is_refused_is_not_padded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        bench.replica.prove(PADDED)
        bench.replica.follow(PADDED)
        monkeypatch.setattr(padding, "padded_array", lambda *_: pytest.fail("it was padded"))
        with pytest.raises(InvalidTensor, match=r"batch-size must be <= \d+"):
            bench.replica.submit(InferRequest({"x": np.ones((33, 3), np.float32)}), ROUTE)

    run(scenario, takes=SEQUENCE)


def test_requests_of_one_head_share_the_batch_of_their_bucket() -> None:
    # What a head was admitted as is noted on it, before its request is padded.
    async def scenario(bench: Bench) -> None:
        bench.replica.prove(PADDED)
        bench.replica.follow(PADDED)
        first = await bench.busy()
        bench.engine.batches.clear()
        notes: dict[Hashable, tuple[int, object]] = {}
        sent = [bench.replica.submit(of_length(length)._replace(admitted=notes), ROUTE) for length in (3, 3, 3)]
        sent.append(bench.replica.submit(of_length(4), ROUTE))
        bench.engine.gate.set()
        assert await values(first, *sent) == [0, 3, 3, 3, 4]
        assert bench.engine.batches == [[0], [1, 1, 1, 1]]

    run(scenario, takes=SEQUENCE)


class Formula:
    """An engine that answers what a function says."""

    def __init__(self, takes: Sequence[TensorSpec], answer: Callable[[Mapping[str, Array]], dict[str, Array]]) -> None:
        self.inputs = tuple(takes)
        self.outputs = (TensorSpec("y", "FP32", (-1, -1)),)
        self._answer = answer

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        return self._answer(inputs)

    def close(self) -> None: ...


MASK = TensorSpec("mask", "INT64", (-1, -1))


def test_outputs_that_follow_the_length_are_cut_and_the_values_of_inputs_are_appended() -> None:
    seen: list[Array] = []

    def masked(inputs: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(inputs["x"])
        weight = inputs["mask"].astype(np.float32)
        return {
            "y": inputs["x"] * 2,
            "mean": (inputs["x"] * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True),
        }

    padder = proven_padder(Formula((SEQUENCE, MASK), masked), Padding((4, 8), (("x", 7.0),)))
    x, mask = np.array([[1, 2, 3]], np.float32), np.ones((1, 3), np.int64)
    padded, cut = padder.pad(InferRequest({"x": x, "mask": mask}))
    assert padded.inputs["x"].tolist() == [[1, 2, 3, 7]]
    assert padded.inputs["mask"].tolist() == [[1, 1, 1, 0]]
    assert cut is not None
    answer = cut(masked(padded.inputs))
    assert answer["y"].tolist() == [[2, 4, 6]]
    assert answer["mean"].tolist() == [[2]]


def test_a_request_whose_variable_dimensions_differ_passes_as_it_is() -> None:
    engine = Formula((SEQUENCE, MASK), lambda inputs: {"y": inputs["x"][:, :1]})
    padder = proven_padder(engine, Padding((4,)))
    request = InferRequest({"x": np.ones((1, 2), np.float32), "mask": np.ones((1, 3), np.int64)})
    assert padder.pad(request) == (request, None)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda inputs: {"y": inputs["x"].mean(1, keepdims=True)}, "padding changes the answers: output 'y'"),
        (lambda inputs: {"y": inputs["x"][:, : inputs["x"].shape[1] // 2]}, "cannot be told from the answer"),
        (lambda inputs: {"y": np.cumsum(inputs["x"][:, ::-1], 1)}, "padding changes the answers"),
    ],
)
def test_padding_that_reaches_the_answers_is_refused(
    answer: Callable[[Mapping[str, Array]], dict[str, Array]], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        proven_padder(Formula((SEQUENCE,), answer), Padding((4, 8)))


def test_padding_for_what_the_model_does_not_have_is_refused_by_name() -> None:
    def same(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": inputs["x"]}

    with pytest.raises(InvalidInput, match="'nothing', which is no input of a variable dimension"):
        proven_padder(Formula((SEQUENCE,), same), Padding((4,), (("nothing", 1.0),)))
    with pytest.raises(InvalidInput, match="no input with a variable dimension"):
        proven_padder(Formula((TensorSpec("x", "FP32", (-1, 2)),), same), Padding((4,)))


def test_a_length_that_the_engine_refuses_refuses_the_padding_in_its_words() -> None:
    def narrow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"].shape[1] > 2:
            raise InvalidTensor("the profile takes lengths up to 2")
        return {"y": inputs["x"]}

    with pytest.raises(InvalidInput, match=r"length 4, so padding cannot be proven: the profile takes lengths up to 2"):
        proven_padder(Formula((SEQUENCE,), narrow), Padding((4,)))


def test_a_longer_bucket_that_the_engine_refuses_refuses_the_padding_too() -> None:
    def narrow(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"].shape[1] > 16:
            raise RuntimeError("positions end at 16")
        return {"y": inputs["x"]}

    with pytest.raises(InvalidInput, match="length 32, so padding cannot be proven: positions end at 16"):
        proven_padder(Formula((SEQUENCE,), narrow), Padding((4, 8, 32)))


@pytest.mark.parametrize(
    "answer",
    [
        lambda inputs: {"y": inputs["x"].max(1, keepdims=True)},
        lambda inputs: {"y": inputs["x"].min(1, keepdims=True)},
        lambda inputs: {"y": np.maximum(inputs["x"], -inputs["x"].max(1, keepdims=True))},
    ],
)
def test_values_of_either_sign_show_a_padding_that_only_some_answers_notice(
    answer: Callable[[Mapping[str, Array]], dict[str, Array]],
) -> None:
    with pytest.raises(InvalidInput, match="padding changes the answers"):
        proven_padder(Formula((SEQUENCE,), answer), Padding((4, 8)))


COUNTS = TensorSpec("counts", "INT64", (-1, -1))


def test_negative_integers_show_a_padding_that_a_largest_one_would_hide() -> None:
    engine = Formula((COUNTS,), lambda inputs: {"y": inputs["counts"].max(1, keepdims=True)})
    with pytest.raises(InvalidInput, match="padding changes the answers: output 'y'"):
        proven_padder(engine, Padding((4, 8)))


@pytest.mark.parametrize("refuses", ["with an error", "with no number"])
def test_where_the_engine_takes_no_negative_integers_none_are_asked_for(refuses: str) -> None:
    def looked_up(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if refuses == "with an error" and (inputs["counts"] < 0).any():
            raise RuntimeError("index out of range")
        largest = inputs["counts"].max(1, keepdims=True)
        return {"y": np.where(largest < 1, np.nan, largest).astype(np.float32)}

    padder = proven_padder(Formula((COUNTS,), looked_up), Padding((4, 8)))
    padded, _ = padder.pad(InferRequest({"counts": np.ones((1, 3), np.int64)}))
    assert padded.inputs["counts"].shape == (1, 4)


@pytest.mark.parametrize(("datatype", "value"), [("UINT8", 1.0), ("BOOL", 1.0), ("INT64", 1.0), ("UINT8", 255.0)])
def test_integers_that_are_no_padding_show_what_equal_ones_would_hide(datatype: str, value: float) -> None:
    def mean(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if inputs["x"].dtype.kind == "i" and (inputs["x"] < 1).any():
            raise RuntimeError("index out of range")
        return {"y": inputs["x"].astype(np.float32).mean(1, keepdims=True)}

    engine = Formula((TensorSpec("x", datatype, (-1, -1)),), mean)
    with pytest.raises(InvalidInput, match="padding changes the answers: output 'y'"):
        proven_padder(engine, Padding((4, 8), (("x", value),)))


def test_where_the_engine_takes_none_above_the_padding_smaller_integers_prove_it() -> None:
    def looked_up(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if (inputs["counts"] > 9).any():
            raise RuntimeError("index out of range")
        return {"y": inputs["counts"].astype(np.float32)}

    padder = proven_padder(Formula((COUNTS,), looked_up), Padding((4, 8), (("counts", 9.0),)))
    assert padder.outputs == {"y": (1,)}


def test_a_mask_of_integers_is_never_negative() -> None:
    def weighed(inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert (inputs["mask"] >= 0).all()
        weight = inputs["mask"].astype(np.float32)
        return {"y": (inputs["counts"] * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)}

    proven_padder(Formula((COUNTS, MASK), weighed), Padding((4, 8)))


def test_an_output_that_follows_the_length_at_first_only_is_refused() -> None:
    engine = Formula((SEQUENCE,), lambda inputs: {"y": inputs["x"][:, :4]})
    with pytest.raises(InvalidInput, match="cannot be told from the answer"):
        proven_padder(engine, Padding((4, 16)))


def test_a_mask_of_floats_lets_everything_of_the_proof_through() -> None:
    def additive(inputs: Mapping[str, Array]) -> dict[str, Array]:
        weight = np.exp((inputs["mask"] - 1) * 1e4)
        return {"y": (inputs["x"] * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)}

    mask = TensorSpec("attention_mask", "FP32", (-1, -1))
    engine = Formula((SEQUENCE, mask), lambda inputs: additive({"x": inputs["x"], "mask": inputs["attention_mask"]}))
    assert proven_padder(engine, Padding((4, 8))).outputs == {}


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT64", 1e30),
        ("INT64", 0.5),
        ("UINT8", 300.0),
        ("UINT8", -1.0),
        ("BOOL", 2.0),
        ("FP16", 1e10),
        ("BF16", 1.0),
    ],
)
def test_a_value_that_the_input_cannot_hold_is_refused_by_name(datatype: str, value: float) -> None:
    engine = Formula((TensorSpec("x", datatype, (-1, -1)),), lambda inputs: {"y": inputs["x"][:, :1]})
    with pytest.raises(InvalidInput, match=f"for 'x', which cannot be appended to {datatype}"):
        proven_padder(engine, Padding((4,), (("x", value),)))


@pytest.mark.parametrize(("datatype", "value"), [("INT64", -100.0), ("UINT8", 255.0), ("FP16", 0.1), ("BF16", 0.0)])
def test_a_value_that_the_input_can_hold_is_proven(datatype: str, value: float) -> None:
    engine = Formula((TensorSpec("x", datatype, (-1, -1)),), lambda inputs: {"y": inputs["x"][:, :1]})
    assert proven_padder(engine, Padding((4,), (("x", value),))).outputs == {}


def test_buckets_that_would_take_the_memory_are_refused() -> None:
    engine = Formula((TensorSpec("x", "FP32", (-1, -1, -1)),), lambda inputs: {"y": inputs["x"][:, :1, 0]})
    with pytest.raises(InvalidInput, match=f"a row of 'x' padded to {2**20} would take {2**42} bytes"):
        proven_padder(engine, Padding((4, 2**20)))
