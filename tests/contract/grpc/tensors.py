"""Inputs of the served models as the protocol's own client makes them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from tests.contract.oip.serving import KINDS
from tests.contract.oip.test_tritonclient import values_of

ONES = np.ones((1, 1, 2, 2), np.float32)
ANSWER = [[6, 12, 18]]


def one_input(array: Any = ONES, name: str = "x") -> Any:
    wanted = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    wanted.set_data_from_numpy(array)
    return wanted


class Call:
    """A request under way by the client's callback interface."""

    def __init__(self, client: Any, array: Any, model: str) -> None:
        self._answer: Future[Any] = Future()
        self._context = client.async_infer(model, [one_input(array)], callback=self._ended)

    def _ended(self, result: Any, error: Any) -> None:
        if error is None:
            self._answer.set_result(result)
        else:
            self._answer.set_exception(error)

    def cancel(self) -> None:
        self._context.cancel()

    def answer(self) -> Any:
        """The values of `y`. Raises the client's error."""
        return self._answer.result(30).as_numpy("y").tolist()


def fake_row(value: float) -> Any:
    """One row of the fake engine's input, whose sum is `value`."""
    return np.array([[value, 0]], np.float32)


def every_datatype() -> dict[str, Any]:
    """A two by two array of each datatype, its extremes among the values."""
    return {kind: values_of(kind) for kind in KINDS}


def texts(array: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
