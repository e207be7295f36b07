"""Runs that failed of what a caller sent: of its shapes, where a model leaves axes behind the batch to its callers, and
of its numbers and texts, such as an id beyond a table or a category that the model does not know.

What else fails is the engine's: memory that ran out, kernels, and the shapes of a model that fixes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from service.domain.tensor import TensorSpec
from service.engines.engine import Array
from service.errors import InvalidTensor

_MEMORY = re.compile(r"alloc|out of memory", re.IGNORECASE)
_INDEX = "out of data bounds"
# How the operators of ONNX Runtime complain of shapes. An index beyond its axis is one: a sequence that is
# longer than the table of its positions.
_SHAPES = re.compile(rf"shape|dimension|broadcast|\bdim\b|\baxis\b|split|channel|{_INDEX}", re.IGNORECASE)
# How they complain of what tensors hold.
_VALUES = re.compile(
    rf"{_INDEX}|index (?:is )?out of range|invalid ind(?:ex|ice) found|Out of range value in index|"
    r"(?:division|modulo) by zero|Invalid value/s in sequence_lens|Invalid sequence length|Unknown Category|^sto[dfi]"
)
# Where ONNX Runtime's source found fault, in which words of the list above may stand.
_PLACE = re.compile(r"^.*was false\. |^.*\.(?:h|cc):\d+ (?:\w+(?= [A-Z]) )?(?:.*\] (?=\w+ op: ))?", re.DOTALL)
# OpenVINO names the place in its source, which tells more surely: where shapes follow from shapes, or from these the
# layout of a tensor.
_OPENVINO_SHAPES = re.compile(r"/shape_infer|/memory_desc/|exceeds the axis dimension|While validating node")
_MAX_WORDS = 200
_LENGTHS_STEP = "send lengths that all its layers fit, as those it was exported or trained with"
_TABLES_STEP = "send what is no longer than its tables, and numbers that these hold"
_VALUES_STEP = "send values that the model knows, as those it was trained with"


def shapes_vary(specs: Sequence[TensorSpec]) -> bool:
    """Whether any input has an open axis behind the batch."""
    return any(-1 in spec.row_shape for spec in specs)


def onnxruntime_refusal(inputs: Mapping[str, Array], error: Exception, varying: bool) -> InvalidTensor | None:
    """What to tell the caller where an operator failed of values, or of the shapes of a model that leaves them open, as
    `varying` says; None for other failures.
    """
    start, of_operator, said = str(error).rpartition("Status Message: ")
    if not of_operator or _MEMORY.search(said):
        return None
    words = " ".join(_PLACE.sub("", said).split())
    if not varying:
        return refusal(inputs, words, _VALUES_STEP) if _VALUES.search(words) else None
    # INVALID_ARGUMENT is for shapes and indices alone; of an empty axis some kernels say nothing at all.
    empty = not all(array.size for array in inputs.values())
    if not (empty or ": INVALID_ARGUMENT :" in start or _SHAPES.search(words) or _VALUES.search(words)):
        return None
    if _INDEX in words:
        return refusal(inputs, words, _TABLES_STEP)
    return refusal(inputs, words, _VALUES_STEP if _VALUES.search(words) else _LENGTHS_STEP)


def openvino_refusal(inputs: Mapping[str, Array], message: str, words: str) -> InvalidTensor | None:
    """As `onnxruntime_refusal`; `words` are those of OpenVINO's `message` that its caller should read."""
    return refusal(inputs, words) if _OPENVINO_SHAPES.search(message) and not _MEMORY.search(message) else None


def refusal(inputs: Mapping[str, Array], words: str, step: str = _LENGTHS_STEP) -> InvalidTensor:
    """Names every input's shape, says why in the runtime's `words`, and what to send instead."""
    shown = ", ".join(f"{name!r} of shape {list(array.shape)}" for name, array in inputs.items())
    why = words[:_MAX_WORDS].rstrip(". ") or "an axis is empty"
    return InvalidTensor(f"the model cannot take input {shown}: {why}; {step}")
