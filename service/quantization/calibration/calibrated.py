"""What calibration has seen of every float tensor: one file of histograms, from which any range follows at no cost.

Refuses a file that is cut short, altered, or of another layout.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from service.domain.recipe import Calibration
from service.errors import StageFailed
from service.quantization.atomic_files import replacing
from service.quantization.calibration.ranges import find_range
from service.quantization.kept_files import LAYOUT
from service.quantization.measures.histogram import BINS, Histogram

_FIELDS = ("reach", "minimum", "maximum", "zeros", "total", "not_finite")
_MEMBERS = ("bins", "fields", "curve", "about")
# The share of magnitudes below the value that `curve` follows: the extremes themselves never settle.
TAIL_PERCENT = 99.9


@dataclass
class Calibrated:
    """Histograms by tensor after `rows` rows, in one matrix. `aliases` maps tensors that hold the same values as
    another to that one; `identity` tells graph and rows apart; `curve` maps a count of rows to the `tail` that each
    histogram had then.
    """

    identity: str
    aliases: dict[str, str]
    histograms: dict[str, Histogram]
    rows: int = 0
    curve: dict[int, list[float]] = field(default_factory=dict)

    @staticmethod
    def empty(identity: str, tensors: Iterable[str], aliases: Mapping[str, str]) -> Calibrated:
        names = list(tensors)
        bins = np.zeros((len(names), BINS + 1), np.int64)
        return Calibrated(identity, dict(aliases), {name: Histogram(bins[i]) for i, name in enumerate(names)})

    def range(self, tensor: str, calibration: Calibration, symmetric: bool) -> tuple[float, float]:
        """(low, high) in real units by the recipe's method, low <= 0 <= high. Raises StageFailed as `extremes`."""
        return find_range(self._sound(tensor), calibration, symmetric)

    def extremes(self, tensor: str) -> tuple[float, float]:
        """The smallest and the largest value. Raises StageFailed where it was not observed, or was not finite."""
        histogram = self._sound(tensor)
        return histogram.minimum, histogram.maximum

    def ranges(self, tensors: Iterable[str], how: Calibration, symmetric: bool) -> dict[str, tuple[float, float]]:
        return {tensor: self.range(tensor, how, symmetric) for tensor in tensors}

    def measured(self) -> dict[str, tuple[float, float]]:
        """(smallest, largest) of every tensor; both infinite where it was NaN or infinite anywhere."""
        unbound = -math.inf, math.inf
        found = {
            tensor: unbound if seen.not_finite else (seen.minimum, seen.maximum)
            for tensor, seen in self.histograms.items()
        }
        return found | {alias: found[shown] for alias, shown in self.aliases.items()}

    def histogram(self, tensor: str) -> Histogram:
        """The tensor's own, or that of the one whose values it holds. Raises StageFailed where it was not observed."""
        found = self.histograms.get(self.aliases.get(tensor, tensor))
        if found is None:
            raise StageFailed(f"tensor {tensor!r} was not calibrated: it is no FLOAT activation of the prepared graph")
        return found

    def __contains__(self, tensor: str) -> bool:
        return self.aliases.get(tensor, tensor) in self.histograms

    def _sound(self, tensor: str) -> Histogram:
        histogram = self.histogram(tensor)
        if histogram.not_finite:
            raise StageFailed(
                f"tensor {tensor!r} is NaN or infinite {histogram.not_finite} times on the calibration rows, so it has "
                "no range; name the operator that makes it in keep_float, or remove the rows that do it"
            )
        return histogram

    def note_tails(self) -> None:
        """Adds a point to the curve at the rows seen so far."""
        self.curve[self.rows] = [histogram.tail(TAIL_PERCENT) for histogram in self.histograms.values()]

    def save(self, path: Path, compress: bool = True) -> None:
        """Writes the file whole or not at all."""
        members = self._members()
        members["digest"] = _digest(members)
        with replacing(path) as partial, partial.open("wb") as file:
            (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **members)

    def _members(self) -> dict[str, npt.NDArray[Any]]:
        histograms = list(self.histograms.values())
        about = {"layout": LAYOUT, "identity": self.identity, "aliases": self.aliases, "rows": self.rows}
        about |= {"tensors": list(self.histograms), "curve_rows": list(self.curve)}
        shape = (len(self.curve), len(histograms))
        return {
            "bins": _matrix(histograms),
            "fields": np.array([[getattr(seen, name) for name in _FIELDS] for seen in histograms], np.float64),
            "curve": np.array(list(self.curve.values()), np.float64).reshape(shape),
            "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        }

    @staticmethod
    def load(path: Path) -> Calibrated:
        """Raises StageFailed for a file that is damaged or of another layout."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                members = {name: archive[name] for name in _MEMBERS}
                if not np.array_equal(archive["digest"], _digest(members)):
                    raise ValueError("its digest is not that of its content")
            about = json.loads(members["about"].tobytes())
            if about["layout"] != LAYOUT:
                raise ValueError(f"its layout is {about['layout']!r}, not {LAYOUT}")
            return _from_members(members, about)
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise StageFailed(f"{path.name} cannot be read: {error}; calibrate again") from error


def _from_members(members: dict[str, npt.NDArray[Any]], about: dict[str, Any]) -> Calibrated:
    made = Calibrated(about["identity"], about["aliases"], {}, about["rows"])
    rows = zip(about["tensors"], members["bins"], members["fields"].tolist(), strict=True)
    for tensor, bins, (reach, minimum, maximum, *counts) in rows:
        histogram = Histogram(bins)
        histogram.reach, histogram.minimum, histogram.maximum = reach, minimum, maximum
        histogram.zeros, histogram.total, histogram.not_finite = map(int, counts)
        made.histograms[tensor] = histogram
    made.curve = dict(zip(about["curve_rows"], members["curve"].tolist(), strict=True))
    return made


def _matrix(histograms: list[Histogram]) -> npt.NDArray[np.int64]:
    """The matrix that all count in, or one made of their rows."""
    if not histograms:
        return np.zeros((0, BINS + 1), np.int64)
    whole = histograms[0].bins.base
    if whole is not None and whole.shape == (len(histograms), BINS + 1):
        return whole
    return np.stack([histogram.bins for histogram in histograms])


def _digest(members: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.uint8]:
    """SHA-256 over every member, in the file's order."""
    digest = hashlib.sha256()
    for name in _MEMBERS:
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(members[name]).data)
    return np.frombuffer(digest.digest(), np.uint8)
