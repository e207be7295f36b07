"""Whether a detector's engine still finds what its FP32 model finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.reference import answering
from models.detector.make import split_output

# The score from which detectors' examples count a detection.
THRESHOLD = 0.25


def detection_f1(model: Path, engine: tuple[str, Path], rows: Path) -> float:
    """F1 of the detections of `engine` (runtime, file), where those of the FP32 `model` are the truth."""
    expected, given = (scores_of(runtime, file, rows) for runtime, file in (("onnxruntime", model), engine))
    return f1(expected >= THRESHOLD, given >= THRESHOLD)


def f1(expected: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """The harmonic mean of precision and recall; 1 where there is nothing to find and nothing was found."""
    found, total = int((expected & given).sum()), int(expected.sum()) + int(given.sum())
    return 2 * found / total if total else 1.0


def scores_of(runtime: str, file: Path, rows: Path) -> NDArray[Any]:
    """The scores for all rows, from a process of its own."""
    target = rows.with_name("detections.npy")
    with answering("benchmarks.engine_session", runtime, str(file.absolute()), "1") as session:
        session.ask(do="load", rows=str(rows))
        session.ask(do="outputs", target=str(target))
    return split_output(np.load(target))[1]
