"""Checks one request against what its engine takes, before it shares a batch with others. Refuses tensors by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.domain.inference import Array, InferRequest
from service.domain.tensor import TensorSpec
from service.errors import InvalidTensor

# Engines that one head is noted for: a few variants at a time, and none long after they are gone.
_NOTED_SIGNATURES = 8


class Signature:
    """What one engine takes and gives. `max_rows` 0: requests are never joined, and the first axis is no batch."""

    __slots__ = ("_inputs", "_outputs", "_row_shapes_vary", "max_rows", "model")

    def __init__(self, model: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_rows: int) -> None:
        self.model = model
        self.max_rows = max_rows
        self._inputs = {spec.name: (spec, spec.dtype, spec.shape[1:]) for spec in inputs}
        self._outputs = frozenset(spec.name for spec in outputs)
        self._row_shapes_vary = any(-1 in spec.shape[1:] for spec in inputs)

    def admit(self, request: InferRequest) -> tuple[int, object]:
        """Rows (1 where the first axis is no batch) and the key that requests of one batch share.

        Raises InvalidTensor naming the tensor, what was expected and what came.
        """
        noted = request.admitted
        if noted is None:
            return self._check(request)
        known = noted.get(self)
        if known is None:
            if len(noted) >= _NOTED_SIGNATURES:
                noted.clear()
            known = noted[self] = self._check(request)
        return known

    def _check(self, request: InferRequest) -> tuple[int, object]:
        inputs = request.inputs
        if inputs.keys() != self._inputs.keys():
            self._check_names(inputs)
        counts = {self._rows(name, array, request.datatypes) for name, array in inputs.items()}
        if request.outputs is not None and not self._outputs.issuperset(request.outputs):
            raise self._unknown_output(request.outputs)
        if not self.max_rows:
            return 1, self.key(request)
        rows = counts.pop()
        if counts:
            raise InvalidTensor(
                f"the inputs of the request to model {self.model!r} have {rows} and {counts.pop()} rows; "
                "give every input the same first dimension"
            )
        if not 0 < rows <= self.max_rows:
            raise self._wrong_rows(rows)
        return rows, self.key(request)

    def _rows(self, name: str, array: Array, datatypes: Mapping[str, str]) -> int:
        spec, dtype, row_shape = self._inputs[name]
        datatype = datatypes.get(name, spec.datatype)
        if datatype != spec.datatype or array.dtype != dtype:
            raise self._wrong_datatype(spec, datatype if datatype != spec.datatype else str(array.dtype))
        shape = array.shape
        # Most requests have a fixed row shape, which one comparison of tuples settles.
        if not (self.max_rows and shape[1:] == row_shape and len(shape) > 0) and not spec.accepts(shape):
            raise self._wrong_shape(spec, shape)
        return shape[0] if shape else 1

    def key(self, request: InferRequest) -> object:
        """What requests of one batch share."""
        if not self._row_shapes_vary:
            return request.outputs
        return request.outputs, [request.inputs[name].shape[1:] for name in self._inputs]

    def _check_names(self, inputs: Mapping[str, Array]) -> None:
        wanted = ", ".join(repr(name) for name in self._inputs)
        for name in inputs:
            if name not in self._inputs:
                raise InvalidTensor(f"unexpected inference input {name!r} for model {self.model!r}; it takes {wanted}")
        if len(inputs) != len(self._inputs):
            raise InvalidTensor(
                f"expected {len(self._inputs)} inputs but got {len(inputs)} inputs "
                f"for model {self.model!r}; send {wanted}"
            )

    def _wrong_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> InvalidTensor:
        return InvalidTensor(
            f"unexpected shape for input {spec.name!r} for model {self.model!r}. "
            f"Expected {list(spec.shape)}, got {list(shape)}"
        )

    def _wrong_datatype(self, spec: TensorSpec, datatype: str) -> InvalidTensor:
        return InvalidTensor(
            f"inference input {spec.name!r} data-type is {datatype!r}, "
            f"but model {self.model!r} expects {spec.datatype!r}"
        )

    def _wrong_rows(self, rows: int) -> InvalidTensor:
        if rows == 0:
            return InvalidTensor(
                f"the batch-size of the request to model {self.model!r} is 0; send 1 to {self.max_rows}"
            )
        return InvalidTensor(
            f"inference request batch-size must be <= {self.max_rows} for {self.model!r}; it is {rows}: split it"
        )

    def _unknown_output(self, wanted: Sequence[str]) -> InvalidTensor:
        unknown = next(name for name in wanted if name not in self._outputs)
        return InvalidTensor(
            f"unexpected inference output {unknown!r} for model {self.model!r}; "
            f"it gives {', '.join(repr(name) for name in sorted(self._outputs))}"
        )
