"""Chooses which operators pay for INT8 with more loss than they save, and keeps those in floating point.

It goes on until the predicted loss fits the budget, and never leaves less than a stated share of all
multiply-accumulates in INT8. Values that change between integers and floats cost time too, so whole runs are preferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log10

from service.quantization.conversion.loss_prediction import predicted_loss
from service.quantization.conversion.macs import multiply_accumulates, tensor_sizes
from service.quantization.conversion.sensitivity import Sensitivity
from service.quantization.graphs.graph import Graph
from service.quantization.graphs.runs import connected_runs, operators_around
from service.quantization.placements.placement import Placement

SMALLEST_SHARE = 0.8
# What quantizing or dequantizing one value costs beside a multiply-accumulate in INT8.
_CONVERSION_MACS = 8
_LONGEST_RUN = 3
# A run has to take away more of the noise that is left than this, for each share of all the work that it adds.
_SMALLEST_RETURN = 0.5
# Rows that the tuning has not learned from see more noise than those measured here: 3 dB on EfficientNet-Lite0.
_UNSEEN_NOISE = 2.0
# Parts add up to something else than their sum; beyond this factor the measurement says nothing.
_LARGEST_CORRECTION = 10.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The budget's metric and largest loss, and the smallest share of multiply-accumulates to run in INT8."""

    metric: str | None
    max_loss: float
    smallest_share: float = SMALLEST_SHARE


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen among: a runtime's `placement` of the graph, as the recipe alone asks for it."""

    graph: Graph
    placement: Placement
    sensitivity: Sensitivity


def choose_float(choice: Choice, allowance: Allowance) -> dict[str, str]:
    """Operators to keep in floating point, each with its reason; empty where the loss fits the budget already."""
    return _Chooser(choice, allowance).choose()


@dataclass(frozen=True, slots=True)
class _State:
    """What one set of float operators leaves: noise, work in multiply-accumulates and conversions, share in INT8."""

    noise: float
    work: float
    share: float


class _Chooser:
    def __init__(self, choice: Choice, allowance: Allowance) -> None:
        graph, self._sensitivity = choice.graph, choice.sensitivity
        self._allowance = allowance
        self._kept: frozenset[str] = frozenset()
        self._macs = multiply_accumulates(graph)
        self._total = max(1, sum(self._macs.values()))
        added = self._sensitivity.added
        correction = self._sensitivity.whole / added if added > 0 else 1.0
        self._correction = min(max(correction, 1 / _LARGEST_CORRECTION), _LARGEST_CORRECTION)
        self._names = (
            frozenset(operator.name for operator in choice.placement.weighted) & self._sensitivity.weights.keys()
        )
        around, sizes = operators_around(graph, self._names), tensor_sizes(graph)
        tensors = [(name, around[name]) for name in choice.placement.grids if around.get(name)]
        self._tensors = [
            (names, sizes.get(name, 0), self._sensitivity.activations.get(name, 0.0)) for name, names in tensors
        ]
        self._neighbours = {
            name: frozenset().union(*(names for names, _, _ in self._tensors if name in names)) - {name}
            for name in self._names
        }

    def choose(self) -> dict[str, str]:
        state = self._state(self._kept)
        candidates = connected_runs(self._neighbours, _LONGEST_RUN)
        scores: dict[frozenset[str], float] = {}
        while not self._fits(state):
            candidates = [run for run in candidates if not run <= self._kept]
            for run in candidates:
                if run not in scores:
                    scores[run] = self._score(run, state)
            best = max(candidates, key=lambda run: scores[run], default=frozenset())
            # The best was perhaps judged before another took up the room.
            if not best or scores[best] <= 0:
                break
            if self._score(best, state) <= 0:
                scores[best] = 0.0
                continue
            touched = best.union(*(self._neighbours[name] for name in best))
            scores = {run: score for run, score in scores.items() if not run & touched}
            self._kept |= best
            state = self._state(self._kept)
        return {name: self._reason(name) for name in self._sensitivity.weights if name in self._kept}

    def _fits(self, state: _State) -> bool:
        """Whether the worst of the outputs that may be judged is within the budget."""
        noise, metric = state.noise * _UNSEEN_NOISE, self._allowance.metric
        losses = (predicted_loss(metric, values, noise) for values in self._sensitivity.outputs)
        return all(loss <= self._allowance.max_loss for loss in losses)

    def _score(self, run: frozenset[str], state: _State) -> float:
        """Noise that goes for each multiply-accumulate of work that comes; joining two islands may even save work."""
        after = self._state(self._kept | run)
        gain, work = (state.noise - after.noise) / max(state.noise, 1e-30), max(after.work - state.work, 1.0)
        if after.share < self._allowance.smallest_share or gain * self._total < _SMALLEST_RETURN * work:
            return 0.0
        return (state.noise - after.noise) / work

    def _state(self, kept: frozenset[str]) -> _State:
        """A tensor is rounded while an operator around it is in INT8, and converted where only some are."""
        int8 = self._names - kept
        noise = sum(self._sensitivity.weights[name] for name in int8)
        converted = 0
        for around, size, share in self._tensors:
            if not around <= kept:
                noise += share
                converted += size if around & kept else 0
        macs = sum(self._macs.get(name, 0) for name in int8)
        work = self._total - macs + _CONVERSION_MACS * converted
        return _State(noise * self._correction, work, macs / self._total)

    def _reason(self, name: str) -> str:
        noise = self._sensitivity.weights[name]
        share = noise / max(self._sensitivity.added, 1e-30)
        decibels = f"{-10 * log10(noise):.1f} dB" if noise > 0 else "no noise"
        return (
            f"kept in floating point by measurement: its weights in INT8 alone leave {decibels}, {share:.1%} of all "
            f"noise, and it does {self._macs.get(name, 0) / self._total:.1%} of the multiply-accumulates"
        )
