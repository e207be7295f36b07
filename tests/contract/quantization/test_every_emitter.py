"""One contract for every runtime's way to INT8: what is emitted is valid ONNX, means the plan, and runs as told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

from service.domain.plan import QuantizationPlan
from service.domain.recipe import Calibration, Recipe
from service.engines.fingerprint import host_fingerprint
from service.quantization.builders.builder import builder_for
from service.quantization.graphs.graph import Graph
from service.quantization.lint.fusion_lint import predict
from service.quantization.measures.simulation import simulated
from service.quantization.pipeline import available_runtimes
from service.quantization.planning.rules import rules_of
from service.quantization.planning.saturation import saturates
from tests.contract.quantization.plain_plan import PlainPlan
from tests.unit.quantization.int8 import quantize
from tests.unit.quantization.random_graphs import random_network, random_rows
from tests.unit.quantization.small_models import Array, saved
from tests.unit.quantization.tensorrt_engine import build_engine
from tests.unit.quantization.transformer_block import tokens, transformer_block

DIGITS = Path(__file__).parents[3] / "models" / "digits"
RUNTIMES = ("onnxruntime", "openvino", "tensorrt")
BUILT = tuple(runtime for runtime in RUNTIMES if runtime in available_runtimes())
ENGINES = tuple(runtime for runtime in BUILT if not builder_for(runtime).why_not_here())
MINMAX = Recipe(calibration=Calibration(method="minmax"))
ONE_STEP = 1.001
MULTIPLYING = ("Conv", "Gemm", "MatMul")
# A network's name, or the seed of a random one.
Network = str | int


@dataclass(frozen=True)
class Emitted:
    """One network on its way to one runtime, with the rows that it was calibrated on."""

    graph: Graph
    plan: QuantizationPlan
    model: ModelProto
    rows: dict[str, Array]

    def steps(self, reference: dict[str, Array], given: dict[str, Array]) -> Array:
        """All differences, in steps of the output's grid or, where it has none, of 255 over what it spans."""
        grids = {grid.tensor: grid.scales[0] for grid in self.plan.activations}
        found = [
            np.abs(values - given[name]) / grids.get(name, max(float(np.ptp(values)), 1e-6) / 255)
            for name, values in reference.items()
        ]
        return np.concatenate([differences.reshape(-1) for differences in found])


@cache
def emitted(runtime: str, network: Network) -> Emitted:
    model, rows = source(network)
    with TemporaryDirectory() as folder:
        made, plan = quantize(model, rows, Path(folder), MINMAX, saturates(host_fingerprint().flags), runtime)
        return Emitted(Graph.load(Path(folder) / "prepared.onnx"), plan, made, rows)


def source(network: Network) -> tuple[ModelProto, dict[str, Array]]:
    if network == "digits":
        with np.load(DIGITS / "calibration.npz") as archive:
            return onnx.load_model(DIGITS / "digits.onnx"), {"input": archive["input"][:32]}
    if network == "transformer block":
        return transformer_block(), {"x": tokens(32)}
    seed = int(network)
    return random_network(seed, 2 + seed % 7), random_rows(seed)


def on_every_network(runtimes: tuple[str, ...] = RUNTIMES) -> Callable[[Callable[..., None]], Any]:
    """The test on both real networks and on random ones, for each of the runtimes."""

    def decorate(test: Callable[..., None]) -> Any:
        drawn = given(network=st.integers(0, 1000))(test)
        drawn = settings(max_examples=8, deadline=None, derandomize=True, database=None)(drawn)
        drawn = example(network="digits")(example(network="transformer block")(drawn))
        return pytest.mark.parametrize("runtime", runtimes)(drawn)

    return decorate


@on_every_network()
def test_the_emitted_graph_is_valid_onnx(runtime: str, network: Network) -> None:
    onnx.checker.check_model(emitted(runtime, network).model, full_check=True)


@on_every_network()
def test_the_simulated_graph_is_the_plan_itself(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    meant = PlainPlan(made.graph, made.plan, runtime).run(made.rows)
    assert made.steps(meant, simulated(made.model, 1).infer(made.rows)).max() <= ONE_STEP


@on_every_network(ENGINES)
def test_the_engine_is_its_simulation_within_a_step(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    with TemporaryDirectory() as folder:
        engine = builder_for(runtime).load(saved(made.model, Path(folder) / "engine.onnx"), 1)
        given_, said = engine.infer(made.rows), simulated(made.model, 1).infer(made.rows)
        engine.close()
    steps = made.steps(said, given_)
    # A rounding inside that falls to the other side may count for more at the end, where that is not rounded itself.
    assert np.quantile(steps, 0.9) <= ONE_STEP
    assert steps.max() <= (ONE_STEP if runtime == "onnxruntime" else 3)


@on_every_network(ENGINES)
def test_every_operator_runs_as_the_lint_said(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    predicted = {entry.name: entry for entry in predict(runtime, made.model)}
    with TemporaryDirectory() as folder:
        ran = builder_for(runtime).executed(saved(made.model, Path(folder) / "engine.onnx"), 1)
    # ONNX Runtime adds transposes of its own, under the names of what they turn; what OpenVINO does with operators that
    # only follow a multiplication depends on how it happens to fuse them.
    compared = (
        MULTIPLYING if runtime == "openvino" else {entry.operator for entry in predicted.values()} - {"Transpose"}
    )
    told = [entry for entry in ran if entry.name in predicted and predicted[entry.name].operator in compared]
    assert told
    assert [(entry, predicted[entry.name].rule) for entry in told if entry.int8 != predicted[entry.name].int8] == []


@pytest.mark.skipif("tensorrt" not in BUILT, reason="TensorRT-RTX is not installed")
@on_every_network(("tensorrt",))
def test_tensorrt_compiles_kernels_as_the_lint_said(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    predicted = {entry.name: entry for entry in predict(runtime, made.model)}
    # What follows a multiplication is compiled into a kernel of several operators, for which no type can be told.
    compared = {entry["name"]: entry["int8"] for entry in build_engine(made.model)["executed"]}
    told = {name: int8 for name, int8 in compared.items() if name in predicted}
    assert {predicted[name].operator for name in told} & set(MULTIPLYING)
    assert [(predicted[name], int8) for name, int8 in told.items() if predicted[name].int8 != int8] == []


@on_every_network()
def test_no_scale_is_zero_and_no_weight_leaves_127(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.model.graph.initializer}
    pairs = [node for node in made.model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    assert all((constants[node.input[1]] > 0).all() for node in pairs)
    integers = [values for name, values in constants.items() if values.dtype == np.int8 and values.ndim > 1]
    assert len(integers) == len(made.plan.weights)
    assert all(np.abs(values.astype(int)).max() <= 127 for values in integers)


@on_every_network()
def test_emitting_leaves_the_float_graph_alone_and_gives_the_same_bytes_again(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    before = made.graph.model.SerializeToString()
    again = rules_of(runtime).emit(made.graph.model, made.plan)
    assert made.graph.model.SerializeToString() == before
    assert again.SerializeToString() == made.model.SerializeToString()


@on_every_network()
def test_a_plan_survives_the_way_through_json(runtime: str, network: Network) -> None:
    made = emitted(runtime, network)
    back = QuantizationPlan.from_json(json.loads(json.dumps(made.plan.to_json())))
    assert back == made.plan
    assert rules_of(runtime).emit(made.graph.model, back) == made.model
