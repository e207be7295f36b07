"""The classification extension: outputs as their best classes, `value:index:label`. Refuses those without an order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.domain.inference import Array
from service.errors import InvalidTensor
from service.protocol.heads import MAX_STRINGS
from service.protocol.tensor_codec import float_from_bf16


def class_strings(values: Array, datatype: str, count: int, labels: Sequence[str], batched: bool) -> Array:
    """The `count` largest values, largest first and the lower index first among equals, as BYTES elements.

    [rows, min(count, classes)] where the first axis is the batch, else [min(count, classes)]: the other axes are one
    run of classes. A class without a label has none. Raises InvalidTensor for BOOL and BYTES, and for too many classes.
    """
    if datatype in ("BOOL", "BYTES"):
        raise InvalidTensor(
            f"class result not available for output due to unsupported type '{datatype}'; ask without 'classification'"
        )
    if datatype == "BF16":
        values = float_from_bf16(values)
    batched = batched and values.ndim > 0
    runs = len(values) if batched else 1
    rows = values.reshape(runs, -1) if values.size else np.empty((runs, 0))
    best = min(count, rows.shape[1])
    if len(rows) * best > MAX_STRINGS:
        raise InvalidTensor(
            f"'classification' asks for {best} classes of {len(rows)} rows; ask for at most {MAX_STRINGS} in all"
        )
    strings = np.empty((len(rows), best), np.object_)
    # Without classes there may be any number of rows, none of which holds anything.
    for number, row in enumerate(rows if best else ()):
        strings[number, :] = [_string(row[index], int(index), labels) for index in _largest(row, best)]
    return strings if batched else strings.reshape(-1)


def _largest(row: Array, count: int) -> Array:
    if row.dtype.kind == "f":
        # Not a number is no class's score; it comes last.
        return np.lexsort((-row, np.isnan(row)))[:count]
    backwards = np.argsort(row[::-1], kind="stable")[::-1]
    return np.asarray((len(row) - 1 - backwards)[:count])


def _string(value: np.generic, index: int, labels: Sequence[str]) -> bytes:
    """Six decimals, as clients of the protocol know them."""
    score = f"{value:f}" if value.dtype.kind == "f" else str(value)
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{score}:{index}{label}".encode()
