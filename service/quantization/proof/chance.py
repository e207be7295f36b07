"""What a model that draws by chance loses beside itself: no engine of it can be nearer to it than that."""

from __future__ import annotations

from typing import Any

import onnx

from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import StageFailed
from service.quantization.data.rows import Feed
from service.quantization.graphs.chance import drawing_operators
from service.quantization.preparation.preparation import INSPECTED
from service.quantization.proof.comparison import compare
from service.quantization.task import PipelineTask

_SHOWN = 3


def measure_chance(task: PipelineTask, feed: Feed) -> dict[str, Any] | None:
    """The operators that draw, and metrics of a second run of the upload beside the first; None where none draws."""
    # A stage file of an earlier release does not say.
    if not task.read(INSPECTED).get("drawing"):
        return None
    # As its exporter named them: ONNX Runtime makes others of a Bernoulli.
    operators = drawing_operators(onnx.load_model(task.model, load_external_data=False))
    reference = OnnxRuntimeEngine.load(task.model, task.threads)
    try:
        metrics = compare(reference, reference, feed, lambda fraction: None)["metrics"]
    except StageFailed:
        # How large an output is may be drawn too.
        metrics = {}
    return {"operators": operators, "metrics": metrics}


def chance_as_cause(chance: dict[str, Any] | None, metric: str, max_loss: float) -> str:
    """Words for a verdict, where what is drawn alone costs more than the budget; else nothing."""
    loss = chance["metrics"].get(metric, {}).get("loss") if chance else None
    if chance is None or loss is None or loss <= max_loss:
        return ""
    operators = chance["operators"]
    named = ", ".join(operators[:_SHOWN]) + (f" and {len(operators) - _SHOWN} more" if len(operators) > _SHOWN else "")
    return (
        f"; {named} {'draws' if len(operators) == 1 else 'draw'} by chance, so the float model loses {loss:.6f} beside "
        "itself too: export it without what draws, or with what is drawn as an input"
    )
