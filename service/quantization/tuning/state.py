"""What is tuned: the subject, which no step changes, and the state, which each step replaces by another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto

from service.domain.plan import QuantizationPlan, TensorGrid
from service.domain.recipe import Calibration, Recipe
from service.quantization.calibration.calibrated import Calibrated
from service.quantization.calibration.ranges import find_range
from service.quantization.graphs.graph import Graph
from service.quantization.measures.histogram import Histogram
from service.quantization.placements.placement import Placement, WeightedOperator
from service.quantization.planning.planner import Planned, make_plan
from service.quantization.planning.rules import RuntimeRules
from service.quantization.tuning.layer import Layer
from service.quantization.tuning.sample import Sample


@dataclass(frozen=True)
class Subject:
    """The float graph, what calibration saw of it, the runtime's rules, and the rows to learn from and be judged on.

    `cpu_flags` are those of the CPU whose kernels limit the weights, None where no kernel does.
    """

    graph: Graph
    calibrated: Calibrated
    rules: RuntimeRules
    recipe: Recipe
    cpu_flags: tuple[str, ...] | None
    sample: Sample
    threads: int


@dataclass(frozen=True)
class State:
    """`graph` has the constants as tuned so far and `reference` computes the float graph's function with the channels
    of `graph`; `seen` are histograms of tensors whose channels were scaled, instead of those of the calibration.
    """

    subject: Subject
    placement: Placement
    graph: Graph
    reference: Graph
    calibration: Calibration
    seen: Mapping[str, Histogram] = field(default_factory=dict)
    kept_plan: QuantizationPlan | None = None

    @staticmethod
    def of(subject: Subject, placement: Placement) -> State:
        return State(subject, placement, subject.graph, subject.graph, subject.recipe.calibration)

    @property
    def plan(self) -> QuantizationPlan:
        """The plan that weights were rounded for, or the one that follows from the state as it is."""
        if self.kept_plan is not None:
            return self.kept_plan
        ranges = {tensor: self.range(tensor) for tensor in self.placement.observed}
        planned = Planned(self.graph, self.placement, ranges, self.subject.cpu_flags)
        return make_plan(planned, self.subject.recipe, self.subject.rules.grids)

    def range(self, tensor: str) -> tuple[float, float]:
        """(low, high) by the present method."""
        symmetric = self.subject.rules.grids.mirrored(self.subject.recipe.scheme)
        if tensor in self.seen:
            return find_range(self.seen[tensor], self.calibration, symmetric)
        return self.subject.calibrated.range(tensor, self.calibration, symmetric)

    def input_grid(self, operator: WeightedOperator) -> tuple[TensorGrid, tuple[float, float]]:
        """The grid of an operator's activation, and the range that it was made from."""
        grid = next(grid for grid in self.plan.activations if grid.tensor == operator.activation)
        return grid, self.range(self.placement.grids[operator.activation])

    def emitted(self, with_weights: bool = True) -> ModelProto:
        """The plan written into the graph, or its activations alone."""
        plan = self.plan if with_weights else replace(self.plan, weights=())
        return self.subject.rules.emit(self.graph.model, plan)

    def layers(self) -> list[Layer]:
        """The weighted operators that run in INT8 and have weights of their own."""
        return [
            Layer.of(self.graph, operator) for operator in self.placement.weighted if self.graph.owned(operator.weight)
        ]
