"""Looks for what makes a calibration worthless without any error: wrong rows, wrong scale, too few of them.

Every finding names the rows or the tensor, the value, and what to do. It refuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from service.quantization.calibration.calibrated import TAIL_PERCENT, Calibrated
from service.quantization.calibration.row_statistics import InputStatistics, RowStatistics, row_statistics
from service.quantization.data.rows import Rows
from service.quantization.graphs.graph import Graph
from service.quantization.task import PipelineTask

FEW_ROWS = 32
_SHOWN = 5
# Two sets of the same kind of data differ in spread, but not by this factor.
_SPREAD_FACTOR = 3.0
# Neighbouring pixels of pictures correlate by 0.8 and more, those of noise not at all.
_NOISE_GRAIN = 0.1
_SETTLED = 0.1
_UNSETTLED_SHARE = 0.05


def diagnose(task: PipelineTask, seen: Calibrated, rows: Rows, digests: list[bytes]) -> list[str]:
    """Warnings on the rows that were calibrated on, by their digests in order, and on what they did to the model."""
    statistics = row_statistics(rows, len(digests))
    found = [*_too_few(len(digests)), *_repeated(digests), *_constant(statistics)]
    if task.calibration is not None and task.validation is not None:
        validation = Rows.open(task.validation, "validation").only(rows.arrays)
        others = row_statistics(validation, len(validation))
        found += _shared(digests, validation)
        found += _unlike_validation(statistics, others)
        found += _dead_channels(statistics, others)
    else:
        found += _dead_channels(statistics, None)
    found += _noise(statistics)
    found += _unlike_training(Graph.load(task.model), seen)
    return found + _unsettled(seen)


def _too_few(count: int) -> list[str]:
    if count >= FEW_ROWS:
        return []
    return [f"calibrated on {count} rows; ranges from under {FEW_ROWS} rows seldom hold, so send 100 or more"]


def _repeated(digests: list[bytes]) -> list[str]:
    earliest: dict[bytes, int] = {}
    repeated = [row for row, digest in enumerate(digests) if earliest.setdefault(digest, row) != row]
    if not repeated:
        return []
    first = earliest[digests[repeated[0]]]
    return [
        f"{len(repeated)} of {len(digests)} calibration rows repeat earlier ones: {_listed('row', repeated)}, for "
        f"example row {repeated[0]} repeats row {first}; send rows that all differ"
    ]


def _constant(statistics: RowStatistics) -> list[str]:
    rows = statistics.constant_rows
    if not rows:
        return []
    return [
        f"{len(rows)} calibration rows hold one value only: {_listed('row', rows)}; leave out blank or failed samples"
    ]


def _shared(digests: list[bytes], validation: Rows) -> list[str]:
    theirs = validation.digests()
    shared = [row for row, digest in enumerate(digests) if digest in theirs]
    if not shared:
        return []
    return [
        f"{len(shared)} calibration rows are validation rows too: {_listed('row', shared)}; validate on rows that "
        "calibration has not seen"
    ]


def _unlike_validation(ours: RowStatistics, theirs: RowStatistics) -> list[str]:
    found = []
    for name in sorted(ours.inputs.keys() & theirs.inputs.keys()):
        here, there = ours.inputs[name], theirs.inputs[name]
        if _unlike((here.mean, here.deviation), (there.mean, there.deviation)):
            found.append(
                f"input {name!r} is {_described(here)} in the calibration rows but {_described(there)} in the "
                "validation rows; preprocess both alike"
            )
    return found


def _unlike(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two pairs of mean and deviation belong to data of different scale."""
    small, large = sorted((one[1], other[1]))
    return large > _SPREAD_FACTOR * small or abs(one[0] - other[0]) > _SPREAD_FACTOR * large


def _described(values: InputStatistics) -> str:
    return f"{values.low:.4g} to {values.high:.4g} (mean {values.mean:.4g}, deviation {values.deviation:.4g})"


def _dead_channels(ours: RowStatistics, theirs: RowStatistics | None) -> list[str]:
    """Channels that are zero in calibration, unless they are in validation as well."""
    found = []
    for name, values in ours.inputs.items():
        same = theirs.inputs[name].dead if theirs is not None and name in theirs.inputs else ()
        dead = [channel for channel in values.dead if channel not in same]
        if dead and values.high > values.low:
            found.append(
                f"{_listed('channel', dead)} of input {name!r} is zero in all calibration rows; check the order and "
                "number of channels"
            )
    return found


def _noise(statistics: RowStatistics) -> list[str]:
    return [
        f"input {name!r} looks like random numbers: neighbouring pixels correlate by {values.grain:.3f}, those of "
        "pictures by 0.8 and more; calibrate on real rows"
        for name, values in statistics.inputs.items()
        if values.grain is not None and abs(values.grain) < _NOISE_GRAIN
    ]


def _unlike_training(graph: Graph, seen: Calibrated) -> list[str]:
    """Batch normalisation right behind an input knows what training fed: its outputs' mean is its bias, its outputs'
    deviation its scale.
    """
    found = []
    for node in graph.nodes:
        conv = graph.producer.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        constants = [graph.constant(name) for name in node.input[1:3]]
        if conv is None or conv.input[0] not in graph.inputs or node.output[0] not in seen:
            continue
        if any(constant is None for constant in constants):
            continue
        scale, bias = (np.asarray(constant, np.float64) for constant in constants)
        trained = float(bias.mean()), float(np.sqrt((scale**2 + bias**2).mean() - bias.mean() ** 2))
        given = _moments(seen, node.output[0])
        if trained[1] > 0 and _unlike(given, trained):
            found.append(
                f"tensor {node.output[0]!r} behind input {conv.input[0]!r} has mean {given[0]:.4g} and deviation "
                f"{given[1]:.4g} on the calibration rows, but {trained[0]:.4g} and {trained[1]:.4g} when the model was "
                "trained; check the scale and the order of channels of the preprocessing"
            )
    return found


def _moments(seen: Calibrated, tensor: str) -> tuple[float, float]:
    """Mean and deviation of all values, from the histogram."""
    histogram = seen.histogram(tensor)
    counts, centers = histogram.counts, histogram.centers
    count = max(histogram.total + histogram.zeros, 1)
    mean = float((counts * centers).sum()) / count
    return mean, math.sqrt(max(float((counts * centers**2).sum()) / count - mean**2, 0.0))


def _unsettled(seen: Calibrated) -> list[str]:
    """Tensors whose tail still moved over the second half of the rows."""
    earlier = [rows for rows in seen.curve if rows <= (seen.rows + 1) // 2]
    if not earlier or seen.rows not in seen.curve:
        return []
    half = max(earlier)
    moved = {
        tensor: (after - before) / before if before > 0 else math.inf
        for tensor, before, after in zip(seen.histograms, seen.curve[half], seen.curve[seen.rows], strict=True)
        if abs(after - before) > _SETTLED * before
    }
    if len(moved) <= _UNSETTLED_SHARE * len(seen.histograms):
        return []
    worst = max(moved, key=lambda tensor: abs(moved[tensor]))
    change = f"changed by {100 * moved[worst]:+.0f} %" if math.isfinite(moved[worst]) else "rose from zero"
    return [
        f"the ranges of {len(moved)} of {len(seen.histograms)} tensors still move: from {half} to {seen.rows} rows the "
        f"{TAIL_PERCENT}th percentile of {worst!r} {change}; send about {4 * seen.rows} rows"
    ]


def _listed(word: str, numbers: Iterable[int]) -> str:
    shown = list(numbers)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return f"{word}{'s' if len(shown) > 1 else ''} {', '.join(map(str, shown[:_SHOWN]))}{more}"
