"""What fusion lint predicts of each operator of an emitted graph, beside what the built engine runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx

from service.errors import InvalidRecipe
from service.quantization.lint.fusion_lint import predict
from service.quantization.lint.prediction import Predicted


def fusion_table(runtime: str, emitted: Path, executed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name, operator, predicted and executed (whether in INT8; None where it was fused away) and rule, for each
    operator that the lint knows; empty for a runtime without lint.
    """
    try:
        return beside(predict(runtime, onnx.load_model(emitted, load_external_data=False)), executed)
    except InvalidRecipe:
        return []


def beside(predicted: Iterable[Predicted], executed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each prediction with the engine's operator of the same name."""
    ran = {operator["name"]: operator["int8"] for operator in executed}
    return [
        {"name": entry.name, "operator": entry.operator, "predicted": entry.int8, "executed": ran.get(entry.name),
         "rule": entry.rule}
        for entry in predicted
    ]  # fmt: skip


def unfused(table: Iterable[dict[str, Any]]) -> list[str]:
    """Operators that were to run in INT8 and run in floating point."""
    return [entry["name"] for entry in table if entry["predicted"] and entry["executed"] is False]


def mismatch_warnings(table: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each side on which prediction and engine differ."""
    found = []
    slow = unfused(table)
    fast = [entry["name"] for entry in table if entry["executed"] and not entry["predicted"]]
    if slow:
        found.append(
            f"{len(slow)} operators run in floating point though the lint expected INT8, for example {slow[0]!r}"
        )
    if fast:
        found.append(
            f"{len(fast)} operators run in INT8 though the lint expected floating point, for example {fast[0]!r}"
        )
    return found
