"""The waterfall of one candidate: every operator's part in the loss, between the float graph and what was emitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.engines.fingerprint import host_fingerprint
from service.errors import OctavoError, StageFailed
from service.quantization.atomic_files import read_json
from service.quantization.conversion.conversion import CONVERTED
from service.quantization.conversion.int8_conversion import EQUALIZED, TUNING
from service.quantization.data.rows import Feed
from service.quantization.planning.saturation import saturates
from service.quantization.preparation.preparation import PREPARED
from service.quantization.proof.waterfall import explain
from service.quantization.task import PipelineTask


def waterfall_of(task: PipelineTask, runtime: str, feed: Feed, kernel: bool) -> dict[str, Any] | None:
    """Every operator's part, or a note that says why none can be told; None where nothing is in INT8.

    `kernel` is whether the engine's kernels are looked at too.
    """
    if task.recipe.precision != "int8":
        return None
    form = (kernel, saturates(host_fingerprint().flags))
    try:
        graphs = _float_graph(task, runtime), task.folder / runtime / CONVERTED
        return explain(graphs, feed, form, task.threads) | {"note": None}
    except (OctavoError, ValueError) as error:
        return {"rows": 0, "operators": [], "top": [], "note": f"no operator's part can be told: {error}"}


def _float_graph(task: PipelineTask, runtime: str) -> Path:
    """The float graph whose inner tensors the plan rounds. Raises StageFailed where tuning scaled them unseen."""
    folder = task.folder / runtime
    if (folder / EQUALIZED).exists():
        return folder / EQUALIZED
    ledger = read_json(folder / TUNING) if (folder / TUNING).exists() else []
    if any(step["kept"] and str(step["step"]).endswith("equalization") for step in ledger):
        raise StageFailed("channels were equalized, so its inner tensors are not those of the float graph")
    return task.folder / PREPARED
