"""Seconds and peak memory of each stage of an INT8 job, beside ONNX Runtime's own quantizer on the same rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.errors import CannotMeasure
from benchmarks.jobs import post_job, wait_for_end
from benchmarks.octavo import Place, Server, served, working
from benchmarks.options import DIGITS, Options
from benchmarks.report import Report, Table
from benchmarks.rival_quantizers import Given, quantize_static
from benchmarks.stage_memory import StageMemory

_MIB = 2**20
# The stages that ONNX Runtime's quantizer does too; the others prove and publish, which it leaves to its caller.
_QUANTIZER_STAGES = ("inspect", "calibrate", "convert")


@dataclass(frozen=True)
class Case:
    """A model, its data, and the calibration both quantizers are given."""

    name: str
    model: Path
    data: Path
    metric: str
    method: str
    rows: int
    threads: int


@dataclass(frozen=True)
class Round:
    """One job, stage by stage, and the reference's run on the same rows."""

    state: str
    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    worker_bytes: int
    reference_seconds: float
    reference_peak_bytes: int


def measure_stages(options: Options, say: Callable[[str], None], report: Report) -> None:
    """The digits model, and EfficientNet-Lite0 where its ONNX file and datasets are at hand."""
    report.notes.append(
        "Stages: each round runs one INT8 job over HTTP, with symmetric per-channel weights, and then ONNX Runtime's "
        "`quantize_static` in a process of its own on the same model and calibration rows. Each stage runs in a child "
        "process of the worker; its peak is that child's highest resident memory. Medians over the rounds."
    )
    rows = options.calibration_rows
    _measure(Case("Digits CNN", options.digits, DIGITS, "top1", "entropy", rows, 1), options, say, report)
    model, data = options.find_efficientnet(), options.find_efficientnet_data()
    _measure(Case("EfficientNet-Lite0", model, data, "agreement", "entropy", rows // 4, 2), options, say, report)


def _measure(case: Case, options: Options, say: Callable[[str], None], report: Report) -> None:
    measured: list[Round] = []
    for number in range(options.rounds):
        say(f"{case.name}: round {number + 1} of {options.rounds}")
        options.quiet.wait()
        # A fresh installation each time: the same request on the same state would be answered with the finished job.
        with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
            place = Place(Path(folder) / "data", case.threads)
            with served(place) as server, working(place) as worker:
                job, memory = _run_job(server, worker.pid, case)
        options.quiet.wait()
        measured.append(_round(job, memory, _reference(case)))
    _add_table(report, case, measured)


def _run_job(server: Server, worker: int, case: Case) -> tuple[dict[str, Any], StageMemory]:
    server.upload_model("model", case.model)
    for part in ("calibration", "validation"):
        server.upload_dataset(f"model-{part}", case.data / f"{part}.npz")
    with StageMemory(worker) as memory:
        recipe = {"calibration": {"method": case.method, "rows": case.rows}}
        job = wait_for_end(server, post_job(server, "model", recipe, case.metric))
    if job["state"] not in ("succeeded", "rejected"):
        raise CannotMeasure(f"the job on {case.name} ended as {job['state']}: {job['error']}")
    return job, memory


def _round(job: dict[str, Any], memory: StageMemory, reference: dict[str, Any]) -> Round:
    seconds = {stage["name"]: stage["seconds"] for stage in job["stages"]}
    # Each stage but the last, publish, is one child of the worker, and they run in the stages' order.
    if len(memory.children) != len(seconds) - 1:
        raise CannotMeasure(f"{len(seconds) - 1} stages took {len(memory.children)} processes; run again")
    peaks = dict(zip(seconds, memory.children.values(), strict=False))
    return Round(job["state"], seconds, peaks, memory.worker, reference["seconds"], reference["peak_bytes"])


def _reference(case: Case) -> dict[str, Any]:
    """ONNX Runtime's quantizer with symmetric grids: seconds from its process's start to its end, as a stage's are."""
    given = Given(case.model, case.data / "calibration.npz", case.rows, case.threads)
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        return quantize_static(given, Path(folder) / "int8.onnx", "--method", case.method, "--scheme", "s8s8")


def _add_table(report: Report, case: Case, rounds: list[Round]) -> None:
    title = f"{case.name}, INT8, {case.method} on {case.rows} rows, {case.threads} thread{'s' * (case.threads > 1)}"
    table = Table(title, ["stage", "seconds", "peak MiB"])
    for stage in rounds[0].seconds:
        seconds = median(one.seconds[stage] for one in rounds)
        peaks = [one.peak_bytes.get(stage, one.worker_bytes) for one in rounds]
        whose = "" if stage in rounds[0].peak_bytes else " (the worker)"
        table.rows.append([stage, f"{seconds:.2f}", f"{median(peaks) / _MIB:.0f}{whose}"])
    whole = median(sum(one.seconds.values()) for one in rounds)
    highest = median(max(one.peak_bytes.values()) for one in rounds)
    table.rows.append(["all stages", f"{whole:.2f}", f"{highest / _MIB:.0f}"])
    reference = median(one.reference_seconds for one in rounds)
    reference_peak = median(one.reference_peak_bytes for one in rounds)
    table.rows.append(["`quantize_static`, whole process", f"{reference:.2f}", f"{reference_peak / _MIB:.0f}"])
    quantizer = [sum(one.seconds[stage] for stage in _QUANTIZER_STAGES) / one.reference_seconds for one in rounds]
    peak = [max(one.peak_bytes[stage] for stage in _QUANTIZER_STAGES) / one.reference_peak_bytes for one in rounds]
    table.rows.append([f"{', '.join(_QUANTIZER_STAGES)} over it", f"{median(quantizer):.2f}x", f"{median(peak):.2f}x"])
    report.tables.append(table)
    report.notes.append(
        f"{case.name}: the job ended as {rounds[-1].state}; its budget was 100 % loss of {case.metric}."
    )
    report.rounds[case.name] = [asdict(one) for one in rounds]
