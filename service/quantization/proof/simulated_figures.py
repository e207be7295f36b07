"""Figures of an engine that this host can build but not run: its emitted graph, computed operator by operator.

They are a forecast, not a proof: kernels, fusion, speed and self-consistency remain unseen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import EngineFailed
from service.quantization.builders.building import batch_sizes
from service.quantization.conversion.conversion import CONVERTED
from service.quantization.data.rows import Feed, Rows
from service.quantization.measures.residency import loaded_with_growth
from service.quantization.measures.simulation import simulated
from service.quantization.proof.candidate_waterfall import waterfall_of
from service.quantization.proof.comparison import compare
from service.quantization.proof.latency import measure_in_turn
from service.quantization.proof.loss_split import split_loss
from service.quantization.task import PipelineTask, Progress


class Simulation:
    """One candidate's emitted graph beside the reference."""

    def __init__(self, task: PipelineTask, rows: Rows, runtime: str, engine_path: Path) -> None:
        self._task, self._rows, self._runtime, self._path = task, rows, runtime, engine_path

    def figures(self, report_progress: Progress) -> dict[str, Any]:
        """All keys of a validated candidate; those of speed and of the engine itself are empty. `simulated` says
        whether the CPU could compute the emitted graph at all: BF16 has no kernels there.
        """
        task = self._task
        reference, resident = loaded_with_growth(self._load_reference, lambda engine: None)
        feed = Feed.of(self._rows, reference.inputs)
        sizes = batch_sizes(feed.inputs, task.recipe.batch)
        compared = self._compared(reference, feed, report_progress)
        latency = [
            measure_in_turn({"reference": reference}, feed.filled(size), feed.fixed or size)["reference"]
            for size in sizes
        ]
        ranked = compared["ranked"]
        split = split_loss(task, self._runtime, (reference, None), feed, ranked) if compared["simulated"] else None
        return {
            **compared,
            "latency": {"reference": latency, "engine": []},
            "size": {
                "reference": {"disk_bytes": task.model.stat().st_size, "resident_bytes": resident},
                "engine": {"disk_bytes": self._path.stat().st_size, "resident_bytes": None},
            },
            "consistency": [],
            "loss_split": split,
            "waterfall": waterfall_of(task, self._runtime, feed, False) if compared["simulated"] else None,
        }

    def _compared(self, reference: Engine, feed: Feed, report_progress: Progress) -> dict[str, Any]:
        emitted = self._task.folder / self._runtime / CONVERTED
        try:
            engine = simulated(onnx.load_model(emitted, load_external_data=False), self._task.threads)
        except EngineFailed:
            # The reference beside itself tells which output decides, and nothing else.
            told = compare(reference, reference, feed, report_progress)
            decided = {key: told[key] for key in ("scores", "ranked")}
            return {"metrics": {}, "outputs": [], "classes": [], "tails": {}, **decided, "simulated": False}
        return compare(reference, engine, feed, report_progress) | {"simulated": True}

    def _load_reference(self) -> Engine:
        return OnnxRuntimeEngine.load(self._task.model, self._task.threads)
