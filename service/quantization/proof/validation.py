"""The validate stage: every candidate engine beside the FP32 reference, on every validation row and every batch size.

Where no validation set is named it measures on the calibration rows, and says so: they are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.engines.engine import Compiling, Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.errors import OctavoError
from service.quantization.attempts import attempt
from service.quantization.builders.builder import builder_for
from service.quantization.builders.building import BUILT, batch_sizes
from service.quantization.data.rows import Feed, Rows
from service.quantization.kept_files import RUNTIME_CACHE
from service.quantization.measures.residency import loaded_with_growth
from service.quantization.preparation.preparation import judging_rows, reference_inputs
from service.quantization.proof.candidate_waterfall import waterfall_of
from service.quantization.proof.chance import measure_chance
from service.quantization.proof.comparison import compare
from service.quantization.proof.consistency import check_consistency
from service.quantization.proof.latency import measure_in_turn
from service.quantization.proof.loss_split import split_loss
from service.quantization.proof.simulated_figures import Simulation
from service.quantization.proof.waterfall import kernels_differ
from service.quantization.task import PipelineTask, Progress

VALIDATED = "validate.json"
_ACCURACY_SHARE = 0.5
_LATENCY_SHARE = 0.2


def validate_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes every figure of each candidate and of the reference, and why a candidate could not be measured.

    Raises EngineFailed, InvalidDataset or StageFailed, as the first one did, where none could.
    """
    engines = task.read(BUILT)["engines"]
    feed = Feed.of(judging_rows(task), reference_inputs(task))
    rows = feed.rows
    known = _known_from_calibration(task, rows)
    found: dict[str, Any] = {
        "rows": feed.covered(len(rows)),
        "validated_on": rows.name,
        "labels": rows.labels is not None,
        "independent": not known,
        "warnings": [*_left_out(feed), *known],
        "chance": measure_chance(task, feed),
        "candidates": {},
        "refused": {},
    }
    failures: list[OctavoError] = []
    for index, (runtime, built) in enumerate(engines.items()):
        share = _Share(report_progress, index / len(engines), 1 / len(engines))
        try:
            with attempt(task, runtime):
                found["candidates"][runtime] = _Validator(task, rows, runtime, task.folder / built["file"]).run(share)
        except OctavoError as error:
            failures.append(error)
            found["refused"][runtime] = str(error)
    if not found["candidates"]:
        raise failures[0]
    kept = [f"{runtime}/{RUNTIME_CACHE}" for runtime in engines if (task.folder / runtime / RUNTIME_CACHE).exists()]
    files = [task.write(VALIDATED, found), *kept]
    return {"files": files, "rows": found["rows"], "validated_on": found["validated_on"]}


@dataclass(frozen=True)
class _Share:
    """A slice of the stage's progress."""

    report: Progress
    start: float
    width: float

    def __call__(self, fraction: float) -> None:
        self.report(self.start + self.width * fraction)


class _Validator:
    def __init__(self, task: PipelineTask, rows: Rows, runtime: str, engine_path: Path) -> None:
        self._task, self._rows, self._runtime, self._path = task, rows, runtime, engine_path
        self._builder = builder_for(runtime)

    def run(self, report_progress: Progress) -> dict[str, Any]:
        task, unproven = self._task, self._builder.why_not_here()
        if unproven:
            return Simulation(task, self._rows, self._runtime, self._path).figures(report_progress) | {
                "unproven": unproven
            }
        feed = Feed.of(self._rows, self._load_reference().inputs)
        sizes = batch_sizes(feed.inputs, task.recipe.batch)
        reference, reference_bytes = loaded_with_growth(self._load_reference, lambda e: e.infer(feed.filled(sizes[0])))
        engine, engine_bytes = loaded_with_growth(self._load_engine, lambda e: e.infer(feed.filled(sizes[0])))
        # A GPU's memory is given back by name alone.
        with closing(engine):
            return self._figures((reference, reference_bytes), (engine, engine_bytes), feed, report_progress)

    def _figures(
        self, reference: tuple[Engine, int | None], engine: tuple[Engine, int | None], feed: Feed, progress: Progress
    ) -> dict[str, Any]:
        """Of the loaded engines and the bytes that each added."""
        sizes = batch_sizes(feed.inputs, self._task.recipe.batch)
        (judge, judge_bytes), (judged, judged_bytes) = reference, engine
        comparison = compare(judge, judged, feed, _Share(progress, 0, _ACCURACY_SHARE))
        latency: dict[str, list[dict[str, Any]]] = {"reference": [], "engine": []}
        for index, size in enumerate(sizes):
            batch = feed.filled(size)
            rows = feed.fixed or size
            for name, taken in measure_in_turn({"reference": judge, "engine": judged}, batch, rows).items():
                latency[name].append(taken)
            progress(_ACCURACY_SHARE + _LATENCY_SHARE * (index + 1) / len(sizes))
        sizes_of = {
            "reference": {"disk_bytes": self._task.model.stat().st_size, "resident_bytes": judge_bytes},
            "engine": {"disk_bytes": self._path.stat().st_size, "resident_bytes": judged_bytes},
        }
        if isinstance(judged, Compiling):
            judged.keep_compiled()
        explained = self._explained((judge, judged), feed, sizes, comparison["ranked"])
        return {**comparison, "latency": latency, "size": sizes_of, "unproven": ""} | explained

    def _explained(
        self, engines: tuple[Engine, Engine], feed: Feed, sizes: Sequence[int], ranked: Sequence[str]
    ) -> dict[str, Any]:
        """Whether the engine agrees with itself, and where its loss comes from."""
        reference, engine = engines
        form = (self._task.recipe.precision, sizes)
        checks = check_consistency(engine, reference, feed, form)
        split = split_loss(self._task, self._runtime, engines, feed, ranked)
        kernel = self._runtime == "onnxruntime" and kernels_differ(split)
        return {
            "consistency": [check.to_json() for check in checks],
            "loss_split": split,
            "waterfall": waterfall_of(self._task, self._runtime, feed, kernel),
        }

    def _load_reference(self) -> Engine:
        return OnnxRuntimeEngine.load(self._task.model, self._task.threads)

    def _load_engine(self) -> Engine:
        return self._builder.load(self._path, self._task.threads)


def _left_out(feed: Feed) -> list[str]:
    rows, used = len(feed.rows), feed.covered(len(feed.rows))
    if used == rows:
        return []
    return [
        f"the last {rows - used} of {rows} rows are left out of every figure, for the model takes {feed.fixed} at "
        "once; send a multiple of that"
    ]


def _known_from_calibration(task: PipelineTask, rows: Rows) -> list[str]:
    """A warning where any of the rows is; none where they are independent evidence."""
    if task.validation is None:
        return ["no validation set was named: every figure is measured on the calibration rows, which proves less"]
    if task.calibration is None:
        if task.recipe.precision == "fp32":
            return []
        return ["no calibration set was named: ranges were measured on the validation rows too, which proves less"]
    shared = len(rows.digests() & Rows.open(task.calibration, "calibration").only(rows.arrays).digests())
    if shared:
        return [f"{shared} validation rows are calibration rows too; validate on rows that calibration has not seen"]
    return []
