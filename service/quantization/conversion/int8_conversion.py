"""INT8 for one runtime: its placement, the tuning that the recipe asks for, and what stays in floating point for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from service.domain.engine import GPU_RUNTIMES
from service.domain.plan import QuantizationPlan
from service.engines.fingerprint import host_fingerprint
from service.errors import StageFailed
from service.quantization.atomic_files import replacing
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.calibration import CALIBRATION
from service.quantization.conversion.mixed_precision import Allowance, Choice, choose_float
from service.quantization.conversion.sensitivity import Subject as Measured
from service.quantization.conversion.sensitivity import measure
from service.quantization.conversion.trained_ranges import trained_ranges
from service.quantization.data.rows import Feed, Rows
from service.quantization.emitters.tensorrt import emit_tensorrt, plan_in_half
from service.quantization.graphs.graph import Graph
from service.quantization.placements.placement import Placement, place_measured
from service.quantization.placements.spread import joined_parts, spread_reasons
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import rules_of
from service.quantization.planning.saturation import Products, weight_limits
from service.quantization.preparation.preparation import PREPARED, reference_inputs
from service.quantization.preparation.quantized_upload import QuantizedUpload, as_trained, is_quantized, read_quantized
from service.quantization.task import PipelineTask, Progress
from service.quantization.tuning.sample import Sample
from service.quantization.tuning.state import Subject
from service.quantization.tuning.tuner import Tuned, Tuner

# What tuning did: [{step, enabled, kept, sqnr_db_before, sqnr_db_after, seconds, note}].
TUNING = "tuning.json"
# The float graph behind a plan whose channels were scaled: only its inner tensors are those that the plan rounds.
EQUALIZED = "equalized.onnx"
_SENSITIVITY_ROWS = 32
# How far a conversion is when the tuning of all operators has ended.
_TUNED = 0.7


def convert_int8(task: PipelineTask, runtime: str, report_progress: Progress) -> tuple[ModelProto, QuantizationPlan]:
    """The emitted graph and its plan. Writes `tuning.json`, and `equalized.onnx` where channels were scaled, to the
    runtime's folder, which must exist.
    """
    if task.calibration is None:
        raise StageFailed("there is no calibration set to tune INT8 on; name one in calibration")
    graph, rules, recipe = Graph.load(task.folder / PREPARED), rules_of(runtime), task.recipe
    calibrated = Calibrated.load(task.folder / CALIBRATION)
    feed = Feed.of(Rows.open(task.calibration, "calibration"), reference_inputs(task))
    sample = Sample.of(feed, recipe.calibration.rows)
    # No kernel of a GPU adds pairs of products in 16 bits.
    flags = None if runtime in GPU_RUNTIMES else host_fingerprint().flags
    subject = Subject(graph, calibrated, rules, recipe, flags, sample, task.threads)
    # A part that is infinite somewhere, as a mask is, has no range.
    parts = (name for name in joined_parts(graph) if not calibrated.histogram(name).not_finite)
    spread = spread_reasons(graph, calibrated.ranges(parts, recipe.calibration, False))
    placement = place_measured(rules.place, graph, recipe.keep_float, spread)
    upload = onnx.load_model(task.model, load_external_data=False)
    if is_quantized(upload):
        task.write(f"{runtime}/{TUNING}", [])
        return _as_trained(subject, recipe.companion(runtime), placement, read_quantized(upload))
    tuner = Tuner(subject, lambda share: report_progress(share * _TUNED))
    tuned = tuner.tune(placement)
    if recipe.tuning.mixed_precision:
        measured = _measured(task, subject, placement, tuned)
        report_progress(0.9)
        if measured:
            mixed = place_measured(rules.place, graph, recipe.keep_float, spread | measured)
            tuned = tuner.retune(tuned, mixed, f"{len(measured)} operators kept in floating point by measurement")
    task.write(f"{runtime}/{TUNING}", [entry.to_json() for entry in tuned.ledger])
    _write_equalized(task.folder / runtime / EQUALIZED, None if tuned.reference is graph else tuned.reference)
    # Scaled channels have other ranges than were measured: without any, operators are judged by what they do.
    ranges = calibrated.measured() if tuned.reference is graph else {}
    return _emitted(subject, recipe.companion(runtime), tuned.graph, tuned.plan, ranges)


def _emitted(
    subject: Subject, around: str, graph: Graph, plan: QuantizationPlan, ranges: Mapping[str, tuple[float, float]]
) -> tuple[ModelProto, QuantizationPlan]:
    """The plan in the graph, with `around` for what is not INT8, and the plan as it then is."""
    if around == "fp32":
        return subject.rules.emit(graph.model, plan), plan
    halved = plan_in_half(plan, graph, subject.recipe.keep_float, around, ranges)
    return emit_tensorrt(graph.model, halved, around), halved


def _as_trained(
    subject: Subject, around: str, placement: Placement, upload: QuantizedUpload
) -> tuple[ModelProto, QuantizationPlan]:
    """The grids of the upload where it has them, untuned: training has fitted the weights to these. Operators whose
    integers this CPU's kernels could not add keep the plan's own.
    """
    graph, rules, flags = subject.graph, subject.rules, subject.cpu_flags
    trained = trained_ranges(placement, graph, upload.ranges)
    ranges = {
        name: trained.get(name)
        or subject.calibrated.range(name, subject.recipe.calibration, rules.grids.mirrored(subject.recipe.scheme))
        for name in placement.observed
    }
    plan = make_plan(Planned(graph, placement, ranges, flags), subject.recipe, rules.grids)
    grids = {grid.tensor: grid for grid in plan.activations}
    reduced = weight_limits(Products(graph, placement, grids, ranges), flags) if flags is not None else {}
    plan = as_trained(plan, graph, upload, reduced)
    return _emitted(subject, around, graph, plan, subject.calibrated.measured())


def _write_equalized(path: Path, reference: Graph | None) -> None:
    """The float graph with the channels that the plan was made for, where they are not those of the prepared one."""
    path.unlink(missing_ok=True)
    if reference is not None:
        with replacing(path) as partial:
            onnx.save_model(reference.model, partial)


def _measured(task: PipelineTask, subject: Subject, placement: Placement, tuned: Tuned) -> dict[str, str]:
    """Operators that cost more in INT8 than the budget allows, each with its reason."""
    batches = subject.sample.few_batches(_SENSITIVITY_ROWS)
    emitted = subject.rules.emit(tuned.graph.model, tuned.plan)
    parts = Measured(tuned.reference, tuned.graph, tuned.plan, emitted, task.threads)
    sensitivity = measure(parts, batches, lambda share: None)
    chosen = Choice(tuned.reference, placement, sensitivity)
    return choose_float(chosen, Allowance(task.budget.metric, task.budget.max_loss))
