"""Tuning brings a quantized model closer to its float model, keeps a ledger, and can be switched off."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from service.domain.recipe import Calibration, Recipe, Tuning
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.observation import ObservedModel, observable, observe
from service.quantization.data.rows import Feed, Rows
from service.quantization.graphs.graph import Graph
from service.quantization.measures.simulation import simulated
from service.quantization.planning.rules import rules_of
from service.quantization.planning.saturation import kernel_pairs, largest_pair
from service.quantization.preparation.preparation import LOWEST_OPSET, prepare
from service.quantization.tuning.judge import Judge
from service.quantization.tuning.sample import Sample
from service.quantization.tuning.state import State, Subject
from service.quantization.tuning.steps import Steps
from service.quantization.tuning.tuner import SECONDS, Tuned, Tuner
from tests.unit.quantization.small_models import classifier, images, read_in_a_branch, saved

STEPS = ["ranges", "equalization", "weight_clipping", "rounding", "bias_correction"]


def subject_of(
    folder: Path,
    tuning: Tuning,
    runtime: str = "onnxruntime",
    flags: tuple[str, ...] = (),
    model: ModelProto | None = None,
) -> Subject:
    source = saved(model or classifier(), folder / "float.onnx")
    prepare(source, folder / "prepared.onnx", LOWEST_OPSET)
    graph = Graph.load(folder / "prepared.onnx")
    feed = Feed.of(Rows("calibration", {"x": images(96)}, None), OnnxRuntimeEngine.load(source, 1).inputs)
    tensors, aliases = observable(graph)
    histograms = observe(ObservedModel(folder / "prepared.onnx", tensors, 1), feed, 96, lambda share: None)
    recipe = Recipe(calibration=Calibration("minmax"), tuning=tuning)
    sample = Sample.of(feed, 96)
    return Subject(graph, Calibrated("", aliases, histograms), rules_of(runtime), recipe, flags or None, sample, 1)


def tuned(subject: Subject) -> Tuned:
    return Tuner(subject, lambda share: None).tune(subject.rules.place(subject.graph, ()))


def noise(subject: Subject, found: Tuned) -> float:
    rows = {"x": images(200, seed=5)}
    expected = simulated(subject.graph.model, 1).infer(rows)["scores"]
    given = simulated(subject.rules.emit(found.graph.model, found.plan), 1).infer(rows)["scores"]
    # Rows beyond the calibrated range lose by that alone; the typical row shows the rounding.
    return float(np.median((given - expected) ** 2))


def ranges_of(subject: Subject, scheme: str) -> dict[str, tuple[float, float]]:
    subject = replace(subject, recipe=replace(subject.recipe, scheme=scheme, calibration=Calibration("mse")))
    state = State.of(subject, subject.rules.place(subject.graph, ()))
    return {tensor: state.range(tensor) for tensor in state.placement.observed}


def test_the_scheme_moves_zero_points_but_those_of_tensorrt_whose_ranges_stay_mirrored(tmp_path: Path) -> None:
    free, fixed = (subject_of(tmp_path, Tuning.none(), runtime) for runtime in ("onnxruntime", "tensorrt"))
    assert Recipe().scheme == "asymmetric"
    assert ranges_of(free, "asymmetric") != ranges_of(free, "symmetric")
    assert ranges_of(fixed, "asymmetric") == ranges_of(fixed, "symmetric")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "tensorrt"])
def test_all_steps_together_bring_rows_not_seen_closer(tmp_path: Path, runtime: str) -> None:
    plain = subject_of(tmp_path, Tuning.none(), runtime)
    better = replace(plain, recipe=replace(plain.recipe, tuning=Tuning()))
    assert noise(better, tuned(better)) < noise(plain, tuned(plain)) / 1.5


def test_the_ledger_names_every_step_and_what_it_bought(tmp_path: Path) -> None:
    ledger = tuned(subject_of(tmp_path, Tuning())).ledger
    assert [entry.step for entry in ledger] == STEPS
    for entry in ledger:
        assert entry.sqnr_db_before is not None
        assert entry.sqnr_db_after is not None
        assert entry.sqnr_db_after >= entry.sqnr_db_before - 0.5
        assert entry.note
    for before, after in pairwise(ledger):
        assert before.sqnr_db_after == after.sqnr_db_before


def test_weights_and_biases_that_a_branch_reads_too_stay_as_they_are(tmp_path: Path) -> None:
    shared = ("pw.w", "head.b")
    subject = subject_of(tmp_path, Tuning(), model=read_in_a_branch(classifier(), *shared))
    state = State.of(subject, subject.rules.place(subject.graph, ()))
    steps = Steps(Judge(simulated(subject.graph.model, 1), [], 1), lambda share: True)
    for step in (steps.equalization, steps.weight_clipping, steps.rounding, steps.bias_correction):
        state, _ = step(state)
    before, after = subject.graph.constants, state.graph.constants
    changed = {name for name in before if before[name].SerializeToString() != after[name].SerializeToString()}
    assert {"head.w", "dw.b"} <= changed
    assert not changed & set(shared)


def test_without_any_step_the_plan_is_the_plain_one(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, Tuning.none())
    found = tuned(subject)
    assert found.graph is subject.graph
    assert found.plan == State.of(subject, subject.rules.place(subject.graph, ())).plan
    assert {(entry.enabled, entry.kept) for entry in found.ledger} == {(False, False)}


def test_a_step_that_makes_it_worse_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(tmp_path, replace(Tuning.none(), weight_clipping=True))
    monkeypatch.setattr("service.quantization.tuning.steps.clipped", lambda matrix, steps, columns: matrix * 0)
    found = tuned(subject)
    assert found.graph is subject.graph
    (entry,) = [entry for entry in found.ledger if entry.enabled]
    assert not entry.kept
    assert "undone" in entry.note


def test_when_time_is_up_weights_stay_as_they_are_and_the_ledger_says_so(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, replace(Tuning.none(), rounding=True))
    times = iter([0.0])
    tuner = Tuner(subject, lambda share: None, lambda: next(times, SECONDS + 1))
    found = tuner.tune(subject.rules.place(subject.graph, ()))
    assert found.graph is subject.graph
    assert "time was up" in found.ledger[3].note


def test_progress_rises_to_the_end(tmp_path: Path) -> None:
    subject, heard = subject_of(tmp_path, Tuning()), list[float]()
    Tuner(subject, heard.append).tune(subject.rules.place(subject.graph, ()))
    assert heard == sorted(heard)
    assert heard[-1] == 1


def test_more_operators_in_floating_point_keep_the_rounding_of_the_others(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, Tuning())
    tuner = Tuner(subject, lambda share: None)
    first = tuner.tune(subject.rules.place(subject.graph, ()))
    again = tuner.retune(first, subject.rules.place(subject.graph, ("head",)), "1 operator kept")
    assert again.ledger[-1].step == "mixed_precision"
    assert again.ledger[-1].kept
    assert {grid.operator for grid in again.plan.weights} == {"stem", "dw", "pw"}
    weights = [np.asarray(found.graph.constant("pw.w")) for found in (again, first)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert noise(subject, again) <= noise(subject, first) * 1.1


def test_rounded_weights_fit_the_kernels_of_a_cpu_without_dot_products(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, Tuning(), flags=("avx2",))
    found = tuned(subject)
    grids = {grid.tensor: grid for grid in found.plan.activations}
    nodes = {node.name: node for node in found.graph.nodes}
    for operator in subject.rules.place(subject.graph, ()).weighted:
        (weight,) = [grid.weight for grid in found.plan.weights if grid.operator == operator.name]
        values = found.graph.constant(operator.weight)
        assert values is not None
        scales = np.asarray(weight.scales).reshape([-1 if axis == weight.axis else 1 for axis in range(values.ndim)])
        pairs = kernel_pairs(np.rint(values / scales), nodes[operator.name]).astype(np.int64)
        same_sign = pairs[..., 0] * pairs[..., 1] > 0
        sums = np.abs(pairs.sum(axis=2))[same_sign]
        grid = grids[operator.activation]
        top = (255 - grid.zero_point) * grid.scales[0]
        assert sums.max(initial=0) <= largest_pair(grid, (0.0, top))
