"""The steps of tuning, each from a state to a better one and a few words on what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from service.domain.plan import WeightGrid
from service.quantization.data.rows import Array
from service.quantization.graphs.graph import Graph
from service.quantization.planning.saturation import held_pairs, largest_pair, saturates
from service.quantization.tuning.bias_correction import Corrected, corrected
from service.quantization.tuning.channels import channel_power, column_power, histograms, input_place
from service.quantization.tuning.equalization import equalized, factors, streams
from service.quantization.tuning.judge import Judge
from service.quantization.tuning.layer import Floats, Layer, rewritten
from service.quantization.tuning.moments import MOST_COLUMNS, parts_of, second_moments
from service.quantization.tuning.rounding import Levels, rounded
from service.quantization.tuning.state import State
from service.quantization.tuning.weight_clipping import clipped

# Other methods than the recipe's that are tried for activation ranges.
_METHODS = ("minmax", "mse", "percentile", "entropy")
_BIAS_ROWS = 32
Outcome = tuple[State, str]


@dataclass
class Steps:
    """`go_on` hears the share of the step that is done and says whether there is time for more of it."""

    judge: Judge
    go_on: Callable[[float], bool]
    _rounded: dict[str, tuple[WeightGrid, Array]] = field(default_factory=dict)

    def ranges(self, state: State) -> Outcome:
        """The method of calibration whose ranges cost least, one for all tensors."""
        scores: dict[str, float] = {}
        for method in dict.fromkeys((state.calibration.method, *_METHODS)):
            if scores and not self.go_on(len(scores) / len(_METHODS)):
                break
            tried = replace(state, calibration=replace(state.calibration, method=method))
            scores[method] = self.judge.score(tried.emitted(with_weights=False)).sqnr_db
        best = max(scores, key=lambda method: scores[method])
        shown = ", ".join(f"{method} {decibels:.1f} dB" for method, decibels in scores.items())
        if best == state.calibration.method:
            return state, f"activations alone: {shown}"
        return replace(state, calibration=replace(state.calibration, method=best)), f"activations alone: {shown}"

    def equalization(self, state: State) -> Outcome:
        """Moves scale between channels wherever that is exact and a quantized tensor gains by it."""
        quantized = set(state.placement.grids)
        chosen = [stream for stream in streams(state.graph) if quantized & set(stream.tensors)]
        if not chosen:
            return state, "no chain of operators can be scaled exactly"
        sample, threads = state.subject.sample, state.subject.threads
        tensors = [tensor for stream in chosen for tensor in stream.tensors]
        places = [(tensor, stream.axis) for stream in chosen for tensor in stream.tensors]
        power = channel_power(state.graph.model, places, sample.fit_batches, threads)
        sizes = {name: found for (name, _), found in power.items()}
        graph = equalized(state.graph, [(stream, factors(stream, state.graph, sizes)) for stream in chosen])
        seen = histograms(graph.model, tensors, sample.all_batches, threads)
        note = f"{len(chosen)} streams of {len(tensors)} tensors"
        return replace(state, graph=graph, reference=graph, seen=seen), note

    def weight_clipping(self, state: State) -> Outcome:
        """The range of each output channel's weights with the least error at the output."""
        layers, grids = state.layers(), {grid.operator: grid for grid in state.plan.weights}
        places = map(input_place, layers)
        power = channel_power(state.graph.model, places, state.subject.sample.fit_batches, state.subject.threads)
        values: dict[str, Array] = {}
        for layer in layers:
            weight = _constant(state.graph, layer.operator.weight)
            steps = layer.by_output(grids[layer.operator.name].weight.scales)
            columns = column_power(layer, power[input_place(layer)])
            found = layer.tensor(clipped(layer.matrix(weight), steps, columns))
            if not np.array_equal(found, weight):
                values[layer.operator.weight] = found
        if not values:
            return state, "no weight gains by a smaller range"
        return replace(state, graph=rewritten(state.graph, values)), f"{len(values)} of {len(layers)} weights clipped"

    def rounding(self, state: State) -> Outcome:
        """Second-order rounding of every weight onto the plan's grids; what was rounded before on its grid stays."""
        plan, layers = state.plan, state.layers()
        grids = {grid.operator: grid for grid in plan.weights}
        fitting = [layer for layer in layers if layer.columns <= MOST_COLUMNS]
        wanted = [layer for layer in fitting if self._found(layer, grids) is None]
        done, subject, sparse = 0, state.subject, state.subject.recipe.sparsity != "none"
        for part in parts_of(wanted):
            if not self.go_on(done / len(wanted)):
                break
            moments = second_moments(state.reference.model, part, subject.sample.fit_batches(), subject.threads)
            for layer in part:
                grid = grids[layer.operator.name]
                matrix = layer.matrix(_constant(state.graph, layer.operator.weight))
                levels = Levels.of(matrix, layer.by_output(grid.weight.scales))
                found = rounded(matrix, moments[layer.operator.name], levels, sparse)
                self._rounded[layer.operator.name] = grid, self._held(state, layer, found, levels)
            done += len(part)
        kept = {layer.operator.weight: self._found(layer, grids) for layer in fitting}
        values = {name: value for name, value in kept.items() if value is not None}
        note = f"{len(values)} of {len(layers)} weights"
        note += "" if len(fitting) == len(layers) else f", others have sums of more than {MOST_COLUMNS} products"
        note += "" if done == len(wanted) else ", then time was up"
        if not values:
            return state, note
        return replace(state, graph=rewritten(state.graph, values), kept_plan=plan), note

    def bias_correction(self, state: State) -> Outcome:
        """Channel means of every operator's output made equal to the float graph's, one operator after the other."""
        frozen = replace(state, kept_plan=state.plan)
        layers = [
            layer
            for layer in state.layers()
            if layer.operator.bias is not None and state.graph.owned(layer.operator.bias)
        ]
        if not layers:
            return state, "no operator has a bias of its own"
        batches = state.subject.sample.few_batches(_BIAS_ROWS)
        parts = Corrected(
            state.reference.model,
            lambda graph: replace(frozen, graph=graph).emitted(),
            batches,
            state.subject.threads,
        )
        graph = corrected(state.graph, layers, parts, self.go_on)
        return replace(frozen, graph=graph), f"{len(layers)} operators"

    def _found(self, layer: Layer, grids: dict[str, WeightGrid]) -> Array | None:
        """The weight as rounded before, where that was for this very grid."""
        known = self._rounded.get(layer.operator.name)
        if known is None or known[0].weight != grids[layer.operator.name].weight:
            return None
        return known[1]

    def _held(self, state: State, layer: Layer, found: Floats, levels: Levels) -> Array:
        """The rounded weight, without pairs of products that leave the 16 bits of this CPU's kernels."""
        flags = state.subject.cpu_flags
        if flags is None or not saturates(flags):
            return layer.tensor(found)
        integers = layer.tensor(np.rint(found / levels.scale)).astype(np.int8)
        largest = largest_pair(*state.input_grid(layer.operator))
        held = held_pairs(integers, layer.node, largest)
        return layer.tensor(layer.matrix(held) * levels.scale)


def _constant(graph: Graph, name: str) -> Array:
    found = graph.constant(name)
    assert found is not None
    return found
