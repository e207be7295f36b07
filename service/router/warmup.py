"""Runs a fresh engine at every batch size before it serves, and learns from the runs how it may be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.domain.inference import Array
from service.domain.tensor import TensorSpec
from service.engines.engine import Compiling, Engine, Laned
from service.engines.samples import Sampler, sampler_for
from service.errors import EngineFailed, InvalidTensor

_log = logging.getLogger(__name__)

# A batch this short is run on the event loop itself: a hand-over to a thread and back would cost as much again.
INLINE_SECONDS = 0.0005
# Measuring goes no further once warming took this long; larger batches are then warmed by traffic.
WARM_UP_SECONDS = 10.0
_RUNS = 5
_MIN_RUNS = 3
_RUNS_SECONDS = 0.05
# What a batch costs beside its run, roughly: to a thread and back, joined and split.
_BATCH_SECONDS = 0.0002
# A batch size this close to the best rows/s is as good: what is beyond it only makes requests wait.
_NEARLY = 0.98
# Engines that quantize activations per batch differ a little between batch sizes; a shared row differs a lot.
_ROW_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class WarmEngine:
    """An engine that has run, and what was learned: the rows it takes at once, and the rows it may run inline.

    `max_rows` 0 means that requests are never joined; `inline_rows` 0 that every batch goes to the engine's thread.
    `seconds` are the shortest runs by rows.
    """

    engine: Engine
    max_rows: int
    inline_rows: int
    seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def saturating_rows(self) -> int:
        """The smallest batch with nearly the most rows/s of all; `max_rows` where larger ones might have yet more."""
        rates = {rows: rows / (seconds + _BATCH_SECONDS) for rows, seconds in self.seconds.items()}
        best = max(rates.values(), default=0.0)
        enough = min((rows for rows, rate in rates.items() if rate >= _NEARLY * best), default=0)
        return enough if enough < max(rates, default=0) else self.max_rows


def warm_up(engine: Engine, max_rows: int, clock: Callable[[], float]) -> WarmEngine:
    """Blocks for the runs: sizes 1, 2, 4 up to `max_rows`. Raises EngineFailed when even one row cannot be run.

    An engine that refuses all rows made up for it, as where its lengths depend on each other or it knows no category 0,
    is not run: its callers know what it takes.
    """
    sampler = sampler_for(engine, clock)
    if sampler is None:
        _log.warning("the engine is served cold, and none of its requests share a batch")
        return WarmEngine(engine, 0, 0)
    joined = max_rows >= 1 and _joins_rows(engine, sampler)
    bounded = not any(_may_outgrow(spec, joined) for spec in engine.inputs)
    inline_rows = 0
    seconds: dict[int, float] = {}
    began = clock()
    for rows in _sizes(max_rows) if joined else [1]:
        seconds[rows] = _best_seconds(engine, sampler.zeros(rows), clock)
        if bounded and seconds[rows] <= INLINE_SECONDS:
            inline_rows = rows
        if clock() - began > WARM_UP_SECONDS:
            break
    if isinstance(engine, Laned):
        # The largest first: what a lane keeps for a batch size goes when its buffers grow.
        for rows in sorted(seconds, reverse=True):
            engine.warm_lanes(sampler.zeros(rows))
    if isinstance(engine, Compiling):
        engine.keep_compiled()
    return WarmEngine(engine, max_rows if joined else 0, inline_rows, seconds)


def _may_outgrow(spec: TensorSpec, joined: bool) -> bool:
    """Whether a request may hold more of this input than was timed: lengths are timed at 1, and texts empty."""
    return spec.datatype == "BYTES" or -1 in (spec.row_shape if joined else spec.shape)


def _sizes(max_rows: int) -> list[int]:
    powers = [1 << exponent for exponent in range(max_rows.bit_length()) if 1 << exponent < max_rows]
    return [*powers, max_rows]


def _best_seconds(engine: Engine, batch: Mapping[str, Array], clock: Callable[[], float]) -> float:
    best, began = float("inf"), clock()
    for run in range(1, _RUNS + 1):
        start = clock()
        engine.infer(batch)
        now = clock()
        best = min(best, now - start)
        if run >= _MIN_RUNS and now - began > _RUNS_SECONDS:
            break
    return best


def _joins_rows(engine: Engine, sampler: Sampler) -> bool:
    """Whether two requests may share a batch: every first axis varies, and no row changes another's answer.

    A first axis that varies may be something else than a batch (a sequence, say), so this is tried, not assumed.
    """
    specs = (*engine.inputs, *engine.outputs)
    if not engine.inputs or not all(spec.batched for spec in specs):
        return False
    try:
        differing = _differing(engine, sampler.random(2, seed=0))
        if differing and all(differing.values()):
            # One tie is an accident. Another in two further probes is taken for none: slow is better than wrong.
            further = (sampler.random(2, seed) for seed in (1, 2))
            differing = {name: tie for probe in further for name, tie in _differing(engine, probe).items()}
    except (EngineFailed, InvalidTensor):
        # InvalidTensor: an engine that was built for one row alone.
        engine.infer(sampler.zeros(1))
        _log.warning("engine failed on two rows at once; its requests are not batched")
        return False
    if differing:
        outputs = {"outputs": sorted(differing)}
        _log.warning("engine answers a row differently beside another; its requests are not batched", extra=outputs)
    return not differing


def _differing(engine: Engine, two: Mapping[str, Array]) -> dict[str, bool]:
    """The outputs that two rows get otherwise together than alone, and whether a tie of numbers may be all there is.

    Sums are rounded otherwise in another batch size: places and classes of nearly equal numbers may change, too.
    """
    together = engine.infer(two)
    alone = [engine.infer({name: array[row : row + 1] for name, array in two.items()}) for row in (0, 1)]
    halves = {spec.name for spec in engine.outputs if spec.datatype == "BF16"}
    differing: dict[str, bool] = {}
    for name, whole in together.items():
        parts = [answer[name] for answer in alone]
        if any(part.shape != (1, *whole.shape[1:]) for part in parts) or len(whole) != len(parts):
            differing[name] = False
            continue
        if name in halves:
            whole, parts = _widened(whole), [_widened(part) for part in parts]
        rounded = whole.dtype.kind == "f"
        if not (_nearly(whole, parts) if rounded else np.array_equal(whole, np.concatenate(parts))):
            differing[name] = not rounded
    return differing


def _widened(words: Array) -> Array:
    """BF16, which travels as 16-bit words, as FP32."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def _nearly(whole: Array, parts: Sequence[Array]) -> bool:
    for row, part in zip(whole, parts, strict=True):
        scale = float(np.max(np.abs(part), initial=0.0)) + 1e-6
        if float(np.max(np.abs(row - part[0]), initial=0.0)) > _ROW_TOLERANCE * scale:
            return False
    return True
