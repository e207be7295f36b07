"""Calibration: seconds a row beside ONNX Runtime's calibrator, and peak memory on few and on ten times as many rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.options import Options
from benchmarks.pipeline_run import Case, run_pipeline
from benchmarks.report import Goal, Report, Table
from benchmarks.rival_quantizers import Given, calibrate_static
from service.domain.recipe import Budget, Calibration, Recipe

_NAME = "EfficientNet-Lite0"
_THREADS = 2
_METHOD = "entropy"
_MIB = 2**20
_STAGES = ("inspect", "calibrate")
_FASTER, _PEAK_MIB, _GROWTH = 3.0, 600.0, 1.1


def measure_calibration(options: Options, say: Callable[[str], None], report: Report) -> None:
    """With 256 rows given: ours on 256, 200 and 2,000, theirs on 64. Raises CannotMeasure without the model."""
    model, data = options.find_efficientnet(), options.find_efficientnet_data()
    rows, theirs_rows, few = (
        options.calibration_rows,
        options.calibration_rows // 4,
        options.calibration_rows * 25 // 32,
    )
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(options.rounds):
        say(f"Calibration: round {number + 1} of {options.rounds}")
        options.quiet.wait()
        found["ours"].append(_ours(Case(_NAME, model, data, Budget(), rows, 1, _THREADS)))
        options.quiet.wait()
        found["theirs"].append(calibrate_static(Given(model, data / "calibration.npz", theirs_rows, _THREADS), _METHOD))
    long = {}
    for count in (few, 10 * few):
        say(f"Calibration: memory on {count} rows")
        long[count] = _ours(Case(_NAME, model, data, Budget(), count, 1, _THREADS))
    _add(report, (rows, theirs_rows), found, long)


def _ours(case: Case) -> dict[str, Any]:
    """The whole calibrate stage, the start of its process included, on an installation that has seen none of it."""
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name:
        case.prepare(Path(name))
        recipe = Recipe(runtime="onnxruntime", calibration=Calibration(_METHOD, case.calibration_rows))
        build = run_pipeline(case, recipe, Path(name) / "build", _STAGES)
        return {"seconds": build.seconds["calibrate"], "peak_bytes": build.peak_bytes["calibrate"]}


def _add(
    report: Report, rows: tuple[int, int], found: dict[str, list[dict[str, Any]]], long: dict[int, dict[str, Any]]
) -> None:
    table = Table(
        f"Calibration of {_NAME}, {_METHOD}, {_THREADS} threads", ["", "rows", "seconds", "ms a row", "peak MiB"]
    )
    names = ("Octavo, the calibrate stage", "ONNX Runtime's calibrator alone")
    per_row = {}
    for (side, seen), name, count in zip(found.items(), names, rows, strict=True):
        seconds, peak = (median(one[key] for one in seen) for key in ("seconds", "peak_bytes"))
        per_row[side] = seconds / count
        table.rows.append(_row(name, count, seconds, peak))
    for count, one in long.items():
        table.rows.append(_row(names[0], count, one["seconds"], one["peak_bytes"]))
    report.tables.append(table)
    few, many = (one["peak_bytes"] for one in long.values())
    report.goals += [
        Goal("Calibration: ONNX Runtime's seconds a row over ours", per_row["theirs"] / per_row["ours"], _FASTER, "x"),
        Goal(f"Calibration: peak MiB on {max(long)} rows", many / _MIB, _PEAK_MIB, at_most=True),
        Goal(f"Calibration: peak on {max(long)} rows over {min(long)}", many / few, _GROWTH, "x", at_most=True),
    ]
    report.rounds["calibration"] = found | {f"{count} rows": [one] for count, one in long.items()}


def _row(name: str, count: int, seconds: float, peak: float) -> list[str]:
    return [name, str(count), f"{seconds:.2f}", f"{seconds / count * 1e3:.1f}", f"{peak / _MIB:.0f}"]
