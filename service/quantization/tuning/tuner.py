"""Tunes one plan: runs the switched-on steps in order, judges each by simulation, and undoes what made it worse.

The steps rewrite the FLOAT constants of a copy of the graph so that plain rounding onto the plan gives the tuned
integers: emitters know nothing of them. What each step bought stands in the ledger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from service.domain.plan import QuantizationPlan
from service.quantization.graphs.graph import Graph
from service.quantization.measures.simulation import simulated
from service.quantization.placements.placement import Placement
from service.quantization.task import Progress
from service.quantization.tuning.judge import Judge, Score
from service.quantization.tuning.state import State, Subject
from service.quantization.tuning.steps import Outcome, Steps

# What tuning may take in all; a step that runs out of it keeps what it has done.
SECONDS = 900.0
# These are for activations: what they cost in plainly rounded weights, within a slack, second-order rounding wins back.
_OF_ACTIVATIONS = frozenset({"ranges", "equalization"})
_SLACK_DECIBELS = 0.5
# How far all of tuning is when a step has ended.
_BEFORE_ROUNDING = {"ranges": 0.1, "equalization": 0.2, "weight_clipping": 0.3}
_FROM_ROUNDING = {"rounding": 0.7, "bias_correction": 1.0}


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. Decibels are those of the simulated model on rows that the step did not learn from."""

    step: str
    enabled: bool
    kept: bool
    sqnr_db_before: float | None = None
    sqnr_db_after: float | None = None
    seconds: float = 0.0
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Tuned:
    """`graph` has the tuned constants and belongs to `plan`; `reference` computes what the float graph does, with the
    channels that `graph` has.
    """

    graph: Graph
    reference: Graph
    plan: QuantizationPlan
    ledger: tuple[Entry, ...]


class Tuner:
    """Tunes a subject for one placement, and again for placements that keep more operators in floating point."""

    def __init__(
        self, subject: Subject, report_progress: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._subject = subject
        self._progress = report_progress
        self._clock = clock
        self._deadline = clock() + SECONDS
        reference = simulated(subject.graph.model, subject.threads)
        self._judge = Judge(reference, list(subject.sample.held_batches()), subject.threads)
        self._steps = Steps(self._judge, self._go_on)
        self._span = (0.0, 1.0)
        self._unrounded: State | None = None

    def tune(self, placement: Placement) -> Tuned:
        """All steps that the recipe switches on, in order."""
        ledger: list[Entry] = []
        self._unrounded = self._run(_BEFORE_ROUNDING, State.of(self._subject, placement), ledger)
        state = self._run(_FROM_ROUNDING, self._unrounded, ledger)
        return Tuned(state.graph, state.reference, state.plan, tuple(ledger))

    def retune(self, tuned: Tuned, placement: Placement, note: str) -> Tuned:
        """The same tuning where `placement` keeps more in floating point: rounded weights stay, biases are corrected
        again. `note` says what changed.
        """
        assert self._unrounded is not None
        started = self._clock()
        before = self._judge.score(self._subject.rules.emit(tuned.graph.model, tuned.plan))
        state = self._run(_FROM_ROUNDING, replace(self._unrounded, placement=placement), [])
        after = self._judge.score(state.emitted())
        kept = after.sqnr_db >= before.sqnr_db
        entry = self._entry("mixed_precision", kept, (before, after), started, note)
        if not kept:
            return replace(tuned, ledger=(*tuned.ledger, entry))
        return Tuned(state.graph, state.reference, state.plan, (*tuned.ledger, entry))

    def _run(self, steps: Mapping[str, float], state: State, ledger: list[Entry]) -> State:
        for step, share in steps.items():
            self._span = (self._span[1] if ledger else 0.0, share)
            state, entry = self._try(step, state)
            ledger.append(entry)
            self._progress(share)
        return state

    def _try(self, step: str, state: State) -> tuple[State, Entry]:
        """The state after a step, or the one before it where the step is off or made things worse."""
        if not getattr(self._subject.recipe.tuning, step):
            return state, Entry(step, enabled=False, kept=False, note="switched off by the recipe")
        started, before = self._clock(), self._judge.score(state.emitted())
        run: Callable[[State], Outcome] = getattr(self._steps, step)
        changed, note = run(state)
        after = before if changed is state else self._judge.score(changed.emitted())
        kept = changed is not state and after.sqnr_db >= before.sqnr_db
        if changed is not state and step in _OF_ACTIVATIONS and self._subject.recipe.tuning.rounding:
            alone = [self._judge.score(one.emitted(with_weights=False)).sqnr_db for one in (state, changed)]
            kept = alone[1] >= alone[0] and after.sqnr_db >= before.sqnr_db - _SLACK_DECIBELS
            note += f"; activations alone {alone[0]:.1f} to {alone[1]:.1f} dB"
        entry = self._entry(step, kept, (before, after), started, note)
        return (changed if kept else state), entry

    def _entry(self, step: str, kept: bool, scores: tuple[Score, Score], started: float, note: str) -> Entry:
        before, after = scores
        words = f"{note}; {before} to {after}" if kept else f"{note}; stays at {before}"
        if not kept and after != before:
            words = f"{note}; undone, for {before} would become {after}"
        seconds = round(self._clock() - started, 2)
        reached = after if kept else before
        return Entry(step, True, kept, round(before.sqnr_db, 2), round(reached.sqnr_db, 2), seconds, words)

    def _go_on(self, share: float) -> bool:
        start, end = self._span
        self._progress(start + share * (end - start))
        return self._clock() < self._deadline
