"""The calibrate stage: one streaming pass over the rows, one fixed-size histogram for every float tensor of the graph.

What it writes depends on the graph and the rows alone, so any recipe on both can use it. Refuses operators to be
quantized whose values are NaN or infinite on the rows.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.errors import StageFailed
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.calibration_doctor import diagnose
from service.quantization.calibration.observation import ObservedModel, Watch, multiplied, observable, observe_into
from service.quantization.data.rows import Feed, Rows
from service.quantization.graphs.graph import Graph
from service.quantization.kept_files import CALIBRATION, LAYOUT
from service.quantization.preparation.preparation import PREPARED, graph_digest, judging_rows, reference_inputs
from service.quantization.task import PipelineTask, Progress

__all__ = ["CALIBRATED", "CALIBRATION", "Calibrated", "calibrate_stage"]

CALIBRATED = "calibrate.json"
_CHECKPOINT = "calibration.partial.npz"
CHECKPOINT_SECONDS = 5.0
_log = logging.getLogger(__name__)


def calibrate_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes what was seen of every float tensor, or takes what lies in the folder if it is of this graph and rows.

    Skipped for FP32, which needs no range. FP16 and BF16 calibrate on the rows that judge them where no calibration set
    is named.
    """
    if task.recipe.precision == "fp32":
        return {"skipped": True, "files": []}
    feed = Feed.of(calibration_rows(task), reference_inputs(task))
    rows = feed.rows
    digests = rows.row_digests(feed.covered(task.recipe.calibration.rows))
    seen, reused = _calibrated(task, feed, digests, report_progress)
    found: dict[str, Any] = {"rows": seen.rows, "on": rows.name, "tensors": len(seen.histograms), "reused": reused}
    found["warnings"] = diagnose(task, seen, rows, digests)
    return {"files": [CALIBRATION, task.write(CALIBRATED, found)], **found}


def calibration_rows(task: PipelineTask) -> Rows:
    """The rows to calibrate on: the calibration set, or the judging rows where none is named."""
    return judging_rows(task) if task.calibration is None else Rows.open(task.calibration, "calibration")


def _calibrated(
    task: PipelineTask, feed: Feed, digests: list[bytes], report_progress: Progress
) -> tuple[Calibrated, bool]:
    """What was seen, and whether it was there already."""
    graph = Graph.load(task.folder / PREPARED)
    identity = calibration_identity(graph, feed, digests)
    whole = _of_identity(task.folder / CALIBRATION, identity)
    if whole is not None:
        return whole, True
    checkpoint = task.folder / _CHECKPOINT
    seen = _of_identity(checkpoint, identity) or Calibrated.empty(identity, *observable(graph))
    finite = multiplied(graph, task.recipe.keep_float) if task.recipe.precision == "int8" else frozenset()
    watch = Watch(report_progress, finite, lambda: seen.save(checkpoint, compress=False), CHECKPOINT_SECONDS)
    model = ObservedModel(task.folder / PREPARED, tuple(seen.histograms), task.threads)
    observe_into(seen, model, feed, len(digests), watch)
    seen.save(task.folder / CALIBRATION)
    checkpoint.unlink(missing_ok=True)
    return seen, False


def calibration_identity(graph: Graph, feed: Feed, digests: list[bytes]) -> str:
    """SHA-256 of all that the histograms depend on: the graph, the rows in order, how many a fixed batch takes."""
    parts = [str(LAYOUT).encode(), graph_digest(graph.model).encode(), str(feed.fixed).encode(), *digests]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _of_identity(path: Path, identity: str) -> Calibrated | None:
    """The file's content, or None where there is none, it is damaged, or it is of another graph or other rows."""
    if not path.exists():
        return None
    with suppress(StageFailed):
        found = Calibrated.load(path)
        if found.identity == identity:
            return found
    _log.warning("calibration not reused: damaged, or of another graph or other rows", extra={"file": path.name})
    return None
