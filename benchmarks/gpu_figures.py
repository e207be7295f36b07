"""From milliseconds a batch to the table and the goal: pure arithmetic, tested without a GPU."""

from __future__ import annotations

from statistics import median

from benchmarks.report import Goal, Report, Table

BATCHES = (1, 8, 32, 128)
# Rows in a batch -> milliseconds of one batch, a figure a round. A size that failed is missing.
Times = dict[int, list[float]]
# By (runtime, precision).
Figures = dict[tuple[str, str], Times]

_RUNTIMES = {"tensorrt": "TensorRT", "onnxruntime-cuda": "ONNX Runtime CUDA"}
# The published speed-up of FP16 that is to be beaten: 10 ms to 1.25 ms a sample.
_GOAL = 8.0


def add_figures(report: Report, network: str, figures: Figures) -> None:
    """A table of one network, its rounds, and for ResNet50 the goal."""
    columns = ["runtime", "precision", *(f"{rows} rows: ms, rows/s" for rows in BATCHES), "over FP32, 1 row"]
    table = Table(network, columns)
    for (runtime, precision), times in figures.items():
        cells = [_cell(times, rows) for rows in BATCHES]
        over = speed_up(figures, runtime, precision, 1)
        table.rows.append([_RUNTIMES[runtime], precision.upper(), *cells, f"{over:.2f}" if over else ""])
    report.tables.append(table)
    report.rounds[network] = {f"{runtime} {precision}": times for (runtime, precision), times in figures.items()}
    gained = speed_up(figures, "tensorrt", "fp16", max(BATCHES))
    if network == "ResNet50" and gained is not None:
        goal = "ResNet50 on TensorRT: milliseconds a sample in FP32 over FP16, batch 128"
        report.goals.append(Goal(goal, gained, _GOAL))


def _cell(times: Times, rows: int) -> str:
    return f"{median(times[rows]):.3f}, {rows_per_second(times, rows):,.0f}" if rows in times else ""


def medians(times: Times) -> str:
    """On one line: "8 rows 0.512 ms, 32 rows 1.730 ms"."""
    return ", ".join(f"{rows} rows {median(seen):.3f} ms" for rows, seen in times.items())


def rows_per_second(times: Times, rows: int) -> float:
    return rows * 1000 / median(times[rows])


def speed_up(figures: Figures, runtime: str, precision: str, rows: int) -> float | None:
    """How many times faster than the same runtime's FP32 at this batch; None where either is missing."""
    base, wanted = (figures.get((runtime, name), {}).get(rows) for name in ("fp32", precision))
    if base is None or wanted is None:
        return None
    return median(base) / median(wanted)
