"""What a request must hold before it may share a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.domain.inference import InferRequest
from service.domain.tensor import TensorSpec
from service.errors import InvalidTensor
from service.router.admission import Signature

IMAGE = TensorSpec("image", "FP32", (-1, 1, 8))
MASK = TensorSpec("mask", "BOOL", (-1, -1))
LOGITS = TensorSpec("logits", "FP32", (-1, 10))


def signature(max_rows: int = 4) -> Signature:
    return Signature("m", (IMAGE, MASK), (LOGITS,), max_rows)


def request(image: tuple[int, ...] = (2, 1, 8), mask: tuple[int, ...] = (2, 3), **changes: Any) -> InferRequest:
    arrays = {"image": np.zeros(image, np.float32), "mask": np.zeros(mask, np.bool_)}
    return InferRequest(arrays)._replace(**changes)


def test_a_fitting_request_is_admitted_with_its_rows() -> None:
    assert signature().admit(request())[0] == 2


def test_requests_of_other_row_shapes_or_outputs_share_no_batch() -> None:
    keys = [
        signature().admit(request())[1],
        signature().admit(request(mask=(2, 4)))[1],
        signature().admit(request(outputs=("logits",)))[1],
    ]
    assert keys[0] == signature().admit(request())[1]
    assert keys[0] != keys[1]
    assert keys[0] != keys[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "expected 2 inputs but got 0 inputs for model 'm'"),
        ({"inputs": {"image": np.zeros((1, 1, 8), np.float32)}}, "expected 2 inputs but got 1 inputs"),
        (
            {"inputs": {"picture": np.zeros(1)}},
            "unexpected inference input 'picture' for model 'm'; it takes 'image', 'mask'",
        ),
        ({"datatypes": {"mask": "UINT8"}}, "inference input 'mask' data-type is 'UINT8', but model 'm' expects 'BOOL'"),
        ({"image": (2, 8)}, r"unexpected shape for input 'image' for model 'm'. Expected \[-1, 1, 8\], got \[2, 8\]"),
        ({"image": ()}, r"Expected \[-1, 1, 8\], got \[\]"),
        ({"image": (3, 1, 8)}, "have . and . rows; give every input the same first dimension"),
        ({"image": (0, 1, 8), "mask": (0, 3)}, "batch-size of the request to model 'm' is 0; send 1 to 4"),
        ({"image": (5, 1, 8), "mask": (5, 3)}, "inference request batch-size must be <= 4 for 'm'; it is 5"),
        ({"outputs": ("boxes",)}, "unexpected inference output 'boxes' for model 'm'; it gives 'logits'"),
    ],
)
def test_an_unfitting_request_is_refused_with_the_value_and_what_was_expected(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidTensor, match=message):
        signature().admit(request(**changes))


def test_an_array_of_another_type_than_declared_is_refused() -> None:
    arrays = {"image": np.zeros((1, 1, 8)), "mask": np.zeros((1, 3), np.bool_)}
    with pytest.raises(InvalidTensor, match="data-type is 'float64', but model 'm' expects 'FP32'"):
        signature().admit(InferRequest(arrays))


def test_a_model_without_a_batch_takes_its_shape_whole_as_one_row() -> None:
    whole = Signature("m", (TensorSpec("scalar", "FP32", ()),), (LOGITS,), 0)
    assert whole.admit(InferRequest({"scalar": np.zeros((), np.float32)}))[0] == 1
    with pytest.raises(InvalidTensor, match=r"Expected \[\], got \[1\]"):
        whole.admit(InferRequest({"scalar": np.zeros((1,), np.float32)}))


def test_a_noted_admission_is_taken_over_and_the_notes_stay_few() -> None:
    notes: dict[Any, tuple[int, object]] = {}
    for _ in range(20):
        assert signature().admit(request(admitted=notes))[0] == 2
    assert 0 < len(notes) <= 8
    known = signature()
    known.admit(request(admitted=notes))
    assert known.admit(request(image=(9, 9), admitted=notes))[0] == 2, "the note answers, the arrays are not looked at"
