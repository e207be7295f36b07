"""Whether an engine agrees with itself: one row has one answer, whatever batch, order and neighbours it comes with.

A promise that the float model breaks as well is no fault of the engine, and is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engines.engine import Engine
from service.errors import OctavoError
from service.quantization.data.rows import Array, Feed

Floats = npt.NDArray[np.float64]
# Largest difference between two answers to one row, as a share of the output's RMS. Kernels of another batch size add
# in another order: FP32 differs in its last digits, and one rounded step more or less is all that INT8 may differ by.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
_MOST_ROWS = 32
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: `held` is None where it does not apply; `worst` is the largest difference seen, if any."""

    name: str
    held: bool | None
    detail: str
    worst: float | None = None
    tolerance: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_consistency(engine: Engine, reference: Engine, feed: Feed, form: tuple[str, Sequence[int]]) -> list[Check]:
    """Every promise, kept or broken. `form` is (precision, batch sizes in rows). Raises nothing of the engine's."""
    precision, sizes = form
    batch = _rows_of(feed, max(sizes))
    found = []
    for name, promise in _PROMISES.items():
        check = _judged(name, promise, _Trial(engine, batch, feed, tuple(sizes)), TOLERANCES[precision])
        if check.held is False:
            theirs = _judged(name, promise, _Trial(reference, batch, feed, tuple(sizes)), TOLERANCES["fp32"])
            if theirs.held is False:
                check = Check(name, None, f"the float model does not keep it either: {theirs.detail}")
        found.append(check)
    return found


@dataclass(frozen=True)
class _Trial:
    """An engine with the rows that it is tried on; `rows` is 0 where the model's inputs share no row axis."""

    engine: Engine
    batch: dict[str, Array]
    feed: Feed
    sizes: tuple[int, ...]

    @property
    def rows(self) -> int:
        counts = {len(array) if array.ndim else 0 for array in self.batch.values()}
        whole = any(not spec.batched for spec in self.feed.inputs) and not self.feed.fixed
        return 0 if whole or len(counts) != 1 else counts.pop()

    def answers(self, batch: Mapping[str, Array]) -> dict[str, Floats]:
        """Float outputs that have a row for each row of the batch, as FP64 [rows, elements]."""
        rows = len(next(iter(batch.values())))
        given = self.engine.infer(batch)
        return {
            name: values.astype(np.float64).reshape(rows, -1)
            for name, values in given.items()
            if values.dtype.kind == "f" and values.ndim and values.shape[0] == rows
        }

    def taken(self, places: Sequence[int]) -> dict[str, Array]:
        return {name: np.ascontiguousarray(array[list(places)]) for name, array in self.batch.items()}


_Promise = Callable[[_Trial], Iterator[tuple[str, float]]]


def _judged(name: str, promise: _Promise, trial: _Trial, tolerance: float) -> Check:
    """Runs one promise, which yields (what was compared, difference) or nothing where it does not apply."""
    try:
        seen = list(promise(trial))
    except OctavoError as error:
        return Check(name, False, f"the engine failed: {error}")
    except Exception as error:  # noqa: BLE001 (whatever an adapter lets through is the finding)
        return Check(name, False, f"the engine failed with {type(error).__name__}: {error}")
    if not seen:
        return Check(name, None, "it does not apply: the batch size is fixed, or the model has no row axis")
    where, worst = max(seen, key=lambda entry: entry[1])
    # JSON has no infinity.
    shown = worst if np.isfinite(worst) else None
    if worst <= tolerance:
        return Check(name, True, f"answers differ by at most {worst:.3g} of the output's RMS", shown, tolerance)
    by = f"{worst:.3g} of the output's RMS" if shown is not None else "NaN, infinity or another shape"
    return Check(name, False, f"{where} differ by {by}, more than {tolerance:g}", shown, tolerance)


def _batch_sizes(trial: _Trial) -> Iterator[tuple[str, float]]:
    """The same rows in batches of every size."""
    if trial.rows < 2 or trial.feed.fixed:
        return
    expected = trial.answers(trial.batch)
    for size in sorted({1, *(size for size in trial.sizes if size < trial.rows)}):
        parts = [range(start, min(start + size, trial.rows)) for start in range(0, trial.rows, size)]
        answers = [trial.answers(trial.taken(part)) for part in parts]
        for name, values in expected.items():
            given = [answer.get(name) for answer in answers]
            yield f"answers {name!r} at batch {size} and {trial.rows}", _joined_difference(values, given)
    for size in (size for size in trial.sizes if size > trial.rows):
        larger = trial.answers(trial.feed.filled(size))
        for name, values in expected.items():
            part = larger[name][: trial.rows] if name in larger else None
            yield f"answers {name!r} at batch {size} and {trial.rows}", _joined_difference(values, [part])


def _order(trial: _Trial) -> Iterator[tuple[str, float]]:
    """The same rows in another order: a seeded shuffle."""
    if trial.rows < 2:
        return
    places = np.random.default_rng(0).permutation(trial.rows)
    expected, given = trial.answers(trial.batch), trial.answers(trial.taken(places.tolist()))
    for name, values in expected.items():
        yield f"answers {name!r} to rows in another order", _joined_difference(values[places], [given.get(name)])


def _identical(trial: _Trial) -> Iterator[tuple[str, float]]:
    """One row as a whole batch: every answer is the first."""
    if trial.rows < 2:
        return
    for name, values in trial.answers(trial.taken([0] * trial.rows)).items():
        repeated = np.broadcast_to(values[:1], values.shape)
        yield f"answers {name!r} to identical rows of one batch", difference(repeated, values)


def _neighbours(trial: _Trial) -> Iterator[tuple[str, float]]:
    """A row of NaN, then of infinity, in the last place: the rows before it keep their answers."""
    floats = [spec.name for spec in trial.feed.inputs if spec.datatype in _FLOATS]
    if trial.rows < 2 or not floats:
        return
    expected = trial.answers(trial.batch)
    for poison in (np.nan, np.inf):
        batch = {name: array.copy() for name, array in trial.batch.items()}
        for name in floats:
            batch[name][-1] = poison
        given = trial.answers(batch)
        for name, values in expected.items():
            after = given.get(name)
            gap = difference(values[:-1], after[:-1]) if after is not None else float("inf")
            yield f"answers {name!r} beside a row of {poison}", gap


def _zero_rows(trial: _Trial) -> Iterator[tuple[str, float]]:
    """No rows at all: empty answers, or a refusal in Octavo's own words."""
    if trial.rows == 0 or trial.feed.fixed:
        return
    try:
        given = trial.engine.infer(trial.taken([]))
    except OctavoError:
        yield "", 0.0
        return
    for name, values in given.items():
        kept = values.ndim == 0 or values.shape[0] == 0 or values.dtype.kind != "f"
        yield f"answers {name!r} to no rows", 0.0 if kept else float("inf")


_PROMISES: dict[str, _Promise] = {
    "batch_size": _batch_sizes,
    "row_order": _order,
    "identical_rows": _identical,
    "nan_neighbour": _neighbours,
    "zero_rows": _zero_rows,
}


def difference(expected: Floats, given: Floats) -> float:
    """The largest RMS difference of a row, as a share of the RMS of `expected`; infinite where NaN or infinity come, go
    or become each other.
    """
    if expected.shape != given.shape or not np.array_equal(np.isfinite(expected), np.isfinite(given)):
        return float("inf")
    unbound = ~np.isfinite(expected)
    if not np.array_equal(expected[unbound], given[unbound], equal_nan=True):
        return float("inf")
    left, right = np.nan_to_num(expected, posinf=0, neginf=0), np.nan_to_num(given, posinf=0, neginf=0)
    if left.size == 0:
        return 0.0
    worst = float(np.sqrt(((left - right) ** 2).mean(axis=1)).max())
    scale = float(np.sqrt((left**2).mean()))
    return 0.0 if worst == 0 else worst / scale if scale > 0 else float("inf")


def _joined_difference(expected: Floats, parts: Sequence[Floats | None]) -> float:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or any(part.shape[1] != expected.shape[1] for part in known):
        return float("inf")
    return difference(expected, np.concatenate(known))


def _rows_of(feed: Feed, most: int) -> dict[str, Array]:
    """Rows of the data, at most `_MOST_ROWS`: enough for the largest batch, or as many as a check can afford."""
    return feed.filled(min(most, _MOST_ROWS)) if not feed.fixed else feed.filled(feed.fixed)
