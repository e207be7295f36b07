"""The gate stage: holds every candidate against the budget, picks the winner, and writes certificate and report.

Among candidates inside the budget the fastest at the optimal batch wins; with none inside, the one that loses least.
What is too slow for the budget is outside it too.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.domain.engine import Certificate
from service.engines.fingerprint import engine_fingerprint
from service.quantization.atomic_files import replacing, write_text
from service.quantization.builders.building import BUILT
from service.quantization.conversion.conversion import CONVERTED, PLAN
from service.quantization.measures.decisions import OF_EVERY_OUTPUT, chosen_metric
from service.quantization.proof.chance import chance_as_cause
from service.quantization.proof.validation import VALIDATED
from service.quantization.report.page import render_page
from service.quantization.report.report import ReportParts, build_report, speed_of
from service.quantization.task import PipelineTask, Progress

REPORT = "report.json"
REPORT_PAGE = "report.html"
# Whose engine file is not the emitted graph itself.
_COMPILED = ("tensorrt",)
# Figures of a metric that could not be told.
_UNTOLD = {"loss": None, "output": None, "rows_left_out": 0}
# Two losses that differ by less than a float's last digits are the same loss.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Judgement:
    """One candidate's verdict, passed, rejected or unproven; `loss` is None where it cannot be told."""

    runtime: str
    verdict: str
    loss: float | None
    reason: str
    seconds_per_row: float

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"


def gate_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Returns the verdict, the certificate and the winning engine's file; writes it, report.json and report.html."""
    found, built = task.read(VALIDATED), task.read(BUILT)
    judgements = [judge(task, found, runtime) for runtime in found["candidates"]]
    winner = pick(judgements)
    engine_source = task.folder / built["engines"][winner.runtime]["file"]
    engine_path = task.folder / engine_source.name
    with replacing(engine_path) as partial:
        shutil.copyfile(engine_source, partial)
    emitted = _emitted_beside(task, winner.runtime)
    report_progress(0.5)
    certificate = _certificate(task, found, built, winner)
    refused = built.get("refused", {}) | found["refused"]
    shown = (*map(_shown, judgements), *(_refused(*entry) for entry in refused.items()))
    report = build_report(ReportParts(task, found, built, certificate, winner.runtime, shown))
    task.write(REPORT, report)
    write_text(task.folder / REPORT_PAGE, render_page(report))
    return {
        "verdict": certificate.verdict,
        "certificate": certificate.to_json(),
        "variant": report["variant"],
        "runtime": winner.runtime,
        "precision": task.recipe.precision,
        "engine_file": engine_path.name,
        "sha256": _sha256(engine_path),
        "size_bytes": engine_path.stat().st_size,
        "batch_max": built["batch_max"],
        "emitted_file": emitted,
        "files": [engine_path.name, REPORT, REPORT_PAGE, *((emitted,) if emitted else ())],
    }


def _emitted_beside(task: PipelineTask, runtime: str) -> str | None:
    """The graph that the engine was compiled from, to build it by hand; None where it is the engine itself."""
    if runtime not in _COMPILED:
        return None
    with replacing(task.folder / CONVERTED) as partial:
        shutil.copyfile(task.folder / runtime / CONVERTED, partial)
    return CONVERTED


def judge(task: PipelineTask, found: dict[str, Any], runtime: str) -> Judgement:
    """The verdict on one candidate of the validate stage's findings, with a sentence of numbers."""
    candidate = found["candidates"][runtime]
    metric = chosen_metric(task.budget, found["labels"], candidate["scores"] is not None)
    figures = candidate["metrics"].get(metric, _UNTOLD)
    named = f"{metric} of output {figures['output']!r}" if len(candidate["outputs"]) > 1 else metric
    where = _where(found, figures)
    if candidate.get("unproven"):
        reason = f"{candidate['unproven']}. {_forecast(task, named, figures, where)}"
        return Judgement(runtime, "unproven", None, reason, float("inf"))
    timings = candidate["latency"]["engine"]
    speed = min(timings, key=lambda taken: abs(taken["batch"] - task.recipe.batch.opt))["rows_per_second"]
    loss, objection = figures["loss"], _objection(found, candidate, metric)
    passed = not objection and loss is not None and loss <= task.budget.max_loss + _TOLERANCE
    slow = _too_slow(task, candidate) if passed else ""
    if objection:
        reason = objection
    elif loss is None:
        reason = f"the reference is right on no row {where}, so no loss can be told; check the order of the labels"
    else:
        side = "within" if passed else "outside"
        # A stage file of an earlier release knows of no chance.
        chance = "" if passed else chance_as_cause(found.get("chance"), metric, task.budget.max_loss)
        reason = f"{_change(named, figures)}, {side} the budget of {task.budget.max_loss:.6g}, {where}{slow}{chance}"
    return Judgement(runtime, "passed" if passed and not slow else "rejected", loss, reason, 1 / speed)


def _too_slow(task: PipelineTask, candidate: dict[str, Any]) -> str:
    """What the engine lacks of the speed that the budget asks for, or nothing."""
    asked, speed = task.budget.min_speedup, speed_of(candidate["latency"], task.recipe.batch.opt)
    if asked is None or speed["speedup"] >= asked:
        return ""
    return (
        f"; but at batch {speed['batch']} it has {speed['speedup']:.3f} times the reference's speed, below "
        f"budget.min_speedup of {asked:g}"
    )


def _objection(found: dict[str, Any], candidate: dict[str, Any], metric: str) -> str:
    """Why the candidate is rejected whatever its loss, or nothing."""
    for output in candidate["outputs"]:
        if output["engine_not_finite"]:
            count, name = output["engine_not_finite"], output["name"]
            return f"output {name!r} of the engine is NaN or infinite in {count} places where the reference is not"
    untold = _untold(found, candidate["outputs"], _judged(candidate, metric))
    if untold:
        return untold
    for check in candidate["consistency"]:
        if check["held"] is False:
            return f"the engine does not agree with itself ({check['name']}): {check['detail']}"
    return ""


def _untold(found: dict[str, Any], outputs: list[dict[str, Any]], judged: list[dict[str, Any]]) -> str:
    """Why the rows prove too little, or nothing: the reference has to give numbers in half of them at least."""
    kind = found["validated_on"]
    for output in outputs:
        if output["reference_not_finite"] and not output["compared"]:
            return (
                f"output {output['name']!r} of the reference is NaN or infinite everywhere on {found['rows']} {kind} "
                "rows, so nothing is proven; send rows that the model can compute, in its usual range"
            )
    if not any(output["compared"] for output in judged):
        return f"the reference gives no value on {found['rows']} {kind} rows; send rows on which it finds something"
    for output in judged:
        left_out, of = output["rows_left_out"], output["rows"] + output["rows_left_out"]
        if left_out > output["rows"]:
            return (
                f"output {output['name']!r} of the reference holds no finite value in {left_out} of {of} {kind} rows, "
                "so less than half of them prove anything; send rows that the model can compute, in its usual range"
            )
    return ""


def _where(found: dict[str, Any], figures: dict[str, Any]) -> str:
    """The rows that the metric rests on: not those of which the reference gives nothing that can be compared."""
    left_out = figures["rows_left_out"]
    rows = f"{figures['rows']} of {figures['rows'] + left_out}" if left_out else found["rows"]
    return f"on {rows} {found['validated_on']} rows"


def _judged(candidate: dict[str, Any], metric: str) -> list[dict[str, Any]]:
    """The figures of the outputs that the metric judges."""
    every = metric in OF_EVERY_OUTPUT
    return [output for output in candidate["outputs"] if every or output["name"] in candidate["ranked"]]


def pick(judgements: list[Judgement]) -> Judgement:
    """The fastest that passed, else the one with the smallest loss."""
    passed = [judgement for judgement in judgements if judgement.passed]
    if passed:
        return min(passed, key=lambda judgement: judgement.seconds_per_row)
    return min(judgements, key=lambda judgement: float("inf") if judgement.loss is None else judgement.loss)


def _forecast(task: PipelineTask, named: str, figures: dict[str, Any], where: str) -> str:
    """What the simulated graph says of an engine that could not run."""
    if figures["loss"] is None:
        return "No figure of it could be told in simulation"
    side = "within" if figures["loss"] <= task.budget.max_loss + _TOLERANCE else "outside"
    change = _change(named, figures)
    return f"Simulated without its kernels, {change}, {side} the budget of {task.budget.max_loss:.6g}, {where}"


def _change(named: str, figures: dict[str, Any]) -> str:
    """`named` is the metric, and its output where the model has several."""
    if named.startswith("mae"):
        return f"{named} is {figures['engine']:.6g}"
    change = f"{named} went from {figures['reference']:.4f} to {figures['engine']:.4f}"
    return f"{change}, a loss of {figures['loss']:.6f}"


def _certificate(task: PipelineTask, found: dict[str, Any], built: dict[str, Any], winner: Judgement) -> Certificate:
    candidate = found["candidates"][winner.runtime]
    built_for = tuple(built["engines"][winner.runtime].get("notes", {}).get("built_for", ()))
    return Certificate(
        verdict=winner.verdict,
        metric=chosen_metric(task.budget, found["labels"], candidate["scores"] is not None),
        loss=winner.loss,
        max_loss=task.budget.max_loss,
        reason=winner.reason,
        fingerprint=engine_fingerprint(winner.runtime, built_for),
        created_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        model_sha256=_sha256(task.model),
        plan_sha256=_sha256(task.folder / winner.runtime / PLAN),
        # A stage file of an earlier release does not say.
        independent=found.get("independent"),
        speedup=speed_of(candidate["latency"], task.recipe.batch.opt)["speedup"],
        min_speedup=task.budget.min_speedup,
    )


def _shown(judgement: Judgement) -> dict[str, Any]:
    return {
        "runtime": judgement.runtime,
        "verdict": judgement.verdict,
        "loss": judgement.loss,
        "reason": judgement.reason,
    }


def _refused(runtime: str, reason: str) -> dict[str, Any]:
    """A runtime that `auto` tried and that did not build the graph, or whose engine could not be measured."""
    return {"runtime": runtime, "verdict": "refused", "loss": None, "reason": reason}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
