"""How much a quantization job beside the server slows its answers, when each has a core of its own."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.errors import CannotMeasure
from benchmarks.jobs import cancel_job, post_job, read_job
from benchmarks.load import Load, Observed, apply_load, require_wrk
from benchmarks.octavo import Place, Server, served, wait_until, working
from benchmarks.options import DIGITS, Options
from benchmarks.payloads import Requests, check_answer, make_requests
from benchmarks.process import core_ticks
from benchmarks.quiet import Quiet
from benchmarks.reference import bare_session
from benchmarks.report import Goal, Report, Table

# Jobs posted ahead of a round, so that one follows another until it ends.
_QUEUED = 20
_METHODS = ("minmax", "entropy", "percentile", "mse")
_CONNECTIONS = 4
_PAUSE_MS = 10.0
_WARM_UP_SECONDS = 2.0
_FIGURES = ("requests_per_second", "p50_ms", "p99_ms")


@dataclass(frozen=True)
class Round:
    """The same load without and with jobs; `busy` is the share of the worker's core in use meanwhile."""

    quiet: Observed
    beside: Observed
    quiet_busy: float
    busy: float


@dataclass(frozen=True)
class Bench:
    """Everything one round works with."""

    server: Server
    requests: Requests
    load: Load
    worker_core: int
    recipes: Iterator[dict[str, Any]]
    quiet: Quiet

    def observe(self) -> tuple[Observed, float]:
        """What the load saw, and how busy the worker's core was."""
        before = core_ticks(self.worker_core)
        observed = apply_load(self.server.infer_url("digits"), self.requests.binary, self.load).checked("octavo serve")
        after = core_ticks(self.worker_core)
        return observed, (after[0] - before[0]) / max(1, after[1] - before[1])


def measure_interference(options: Options, say: Callable[[str], None]) -> Report:
    """Raises CannotMeasure on fewer than two cores, and when the jobs ran out before a round's end."""
    require_wrk()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotMeasure(f"{len(cores)} core is usable; interference needs two: one to serve, one to quantize")
    report = Report(
        "interference",
        "Answers beside a quantization job",
        f"`octavo serve` and the load generator share core {cores[0]}; `octavo work`, and every process of its jobs, "
        f"has core {cores[1]}. Each of {_CONNECTIONS} connections sends a request of the digits model and pauses "
        f"{_PAUSE_MS:g} ms on average after its answer: the server's core is mostly idle, so that a latency is no wait "
        "behind the load itself. Rounds beside INT8 jobs of the digits model, one after another, and rounds without "
        "take turns; the worker runs in both.",
    )
    with (
        tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder,
        bare_session(options.digits, 1) as bare,
        served(Place(Path(folder) / "data", 1, frozenset(cores[:1]))) as server,
        working(Place(Path(folder) / "data", 1, frozenset(cores[1:2]))),
    ):
        server.upload_model("digits", options.digits)
        for part in ("calibration", "validation"):
            server.upload_dataset(f"digits-{part}", DIGITS / f"{part}.npz")
        requests = make_requests(bare, Path(folder) / "requests")
        check_answer(server.infer_url("digits"), requests.binary, requests.expected)
        load = Load(_CONNECTIONS, options.seconds, _PAUSE_MS, frozenset(cores[:1]))
        bench = Bench(server, requests, load, cores[1], _recipes(), options.quiet)
        apply_load(server.infer_url("digits"), requests.binary, Load(_CONNECTIONS, _WARM_UP_SECONDS))
        rounds = list(_rounds(bench, options.rounds, say))
    _add(report, rounds)
    return report


def _recipes() -> Iterator[dict[str, Any]]:
    """Recipes that all differ, so that each is a job of its own; all calibrate on most of the 256 rows."""
    for rows, method in itertools.product(range(256, 0, -1), _METHODS):
        yield {"calibration": {"method": method, "rows": rows}}


def _rounds(bench: Bench, count: int, say: Callable[[str], None]) -> Iterator[Round]:
    for number in range(count):
        say(f"round {number + 1} of {count}")
        # The order changes from round to round, so that a drift of the machine favours neither.
        if number % 2:
            beside, busy = _observe_beside_jobs(bench)
            quiet, quiet_busy = _observe_alone(bench)
        else:
            quiet, quiet_busy = _observe_alone(bench)
            beside, busy = _observe_beside_jobs(bench)
        yield Round(quiet, beside, quiet_busy, busy)


def _observe_alone(bench: Bench) -> tuple[Observed, float]:
    bench.quiet.wait()
    return bench.observe()


def _observe_beside_jobs(bench: Bench) -> tuple[Observed, float]:
    bench.quiet.wait()
    jobs = [post_job(bench.server, "digits", recipe, "top1") for recipe in itertools.islice(bench.recipes, _QUEUED)]
    wait_until(lambda: read_job(bench.server, jobs[0])["state"] != "queued", "the first job to start")
    observed = bench.observe()
    if read_job(bench.server, jobs[-1])["state"] != "queued":
        raise CannotMeasure(f"{_QUEUED} jobs ended before the round did; use under {bench.load.seconds:g} --seconds")
    # From the last: cancelling the running one first would let the next begin.
    for job in reversed(jobs):
        cancel_job(bench.server, job)
    return observed


def _add(report: Report, rounds: list[Round]) -> None:
    ratio = median(one.beside.p99_ms / one.quiet.p99_ms for one in rounds)
    report.goals.append(Goal("p99 beside a job over p99 without", ratio, 1.5, at_most=True))
    columns = ["", "requests/s", "p50 ms", "p99 ms", "p99, lowest to highest round", "worker's core busy"]
    table = Table("Digits CNN FP32, binary tensors", columns)
    for name, label in (("quiet", "no job"), ("beside", "beside INT8 jobs")):
        loads: list[Observed] = [getattr(one, name) for one in rounds]
        rate, p50, p99 = (median(getattr(load, key) for load in loads) for key in _FIGURES)
        busy = median(one.busy if name == "beside" else one.quiet_busy for one in rounds)
        extremes = f"{min(load.p99_ms for load in loads):.3g} to {max(load.p99_ms for load in loads):.3g} ms"
        table.rows.append([label, f"{rate:.0f}", f"{p50:.3f}", f"{p99:.3f}", extremes, f"{busy:.0%}"])
    p50 = median(one.beside.p50_ms / one.quiet.p50_ms for one in rounds)
    table.rows.append(["ratio, median of rounds", "", f"{p50:.2f}", f"{ratio:.2f}", "", ""])
    report.tables.append(table)
    report.rounds["rounds"] = [asdict(one) for one in rounds]
