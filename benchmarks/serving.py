"""Requests/s of `octavo serve` over the rows/s of bare ONNX Runtime at its best batch, and the latency that it adds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bursts import BURSTS
from benchmarks.errors import CannotMeasure
from benchmarks.load import Load, Observed, apply_load, require_wrk
from benchmarks.octavo import Place, Server, served
from benchmarks.options import Options
from benchmarks.payloads import Payload, check_answer, make_requests
from benchmarks.process import cpu_seconds
from benchmarks.reference import Bare, BareSpeed, bare_session
from benchmarks.report import Goal, Report, Table

_WARM_UP_SECONDS = 2.0
_FIGURES = ("requests_per_second", "p50_ms", "p99_ms")
_COLUMNS = ["request", "connections", "requests/s", "p50 ms", "p99 ms", "over bare rows/s at its best batch"]


@dataclass(frozen=True)
class Case:
    """One model and how it is loaded: `threads` for the bare session, and as many processes of one thread served."""

    name: str
    model: Path
    threads: int
    connections: int
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Round:
    """What one round measured, one thing after another on the same cores."""

    bare: dict[int, BareSpeed]
    binary: Observed
    json: Observed
    alone: Observed
    # Processors that the server had under load, of as many as the case has threads; the rest were the load generator's.
    binary_cpus: float
    json_cpus: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_serving(options: Options, say: Callable[[str], None]) -> Report:
    """Both models; without the exported EfficientNet-Lite0 only the tiny one, and a note says how to make the other."""
    require_wrk()
    report = Report(
        "serving",
        "Serving against bare ONNX Runtime",
        "Each round measures ONNX Runtime alone in a process of its own, at every batch size, and then the server "
        "under load, with the same number of threads on the same cores: bare, they share each call; served, each is "
        "a process that runs batches of its own; a lone connection is served by one engine with all the threads, as "
        "the bare call has them. The bare session lies in small pages, as a program has it. wrk takes its share of the "
        "cores. A round's figure, the runtime's and the server's "
        "alike, is that of the best of three bursts. Ratios are taken within a round; a figure is the median over "
        "the rounds.",
    )
    try:
        model = options.find_efficientnet()
        large = Case("EfficientNet-Lite0 FP32", model, threads=2, connections=8, batches=(1, 2, 4, 8, 16))
        rounds = _measure(large, options, say, report)
        ratio = median(_ratios(rounds, best_batch(rounds), "binary"))
        report.goals.append(Goal("EfficientNet-Lite0, 8 connections, binary: requests/s over bare rows/s", ratio, 0.97))
    except CannotMeasure as error:
        if options.model is not None:
            raise
        report.notes.append(f"EfficientNet-Lite0 was not measured: {error}")
        say(report.notes[-1])
    _measure(Case("Digits CNN FP32", options.digits, 1, 32, (1, 2, 4, 8, 16, 32)), options, say, report)
    return report


def _measure(case: Case, options: Options, say: Callable[[str], None], report: Report) -> list[Round]:
    with (
        tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder,
        bare_session(case.model, case.threads) as bare,
        served(Place(Path(folder) / "data", processes=case.threads)) as server,
        served(Place(Path(folder) / "alone", threads=case.threads)) as alone,
    ):
        requests = make_requests(bare, Path(folder) / "requests")
        for one in (server, alone):
            one.upload_model("model", case.model)
            for payload in (requests.binary, requests.json):
                check_answer(one.infer_url("model"), payload, requests.expected)
                _load(one, payload, Load(case.connections, _WARM_UP_SECONDS))
        targets = ((server, requests.binary, case.connections), (server, requests.json, case.connections))
        targets += ((alone, requests.binary, 1),)
        rounds = [_round(case, options, bare, targets) for _ in _counted(options.rounds, case, say)]
    _add_table(report, case, rounds)
    return rounds


def _counted(rounds: int, case: Case, say: Callable[[str], None]) -> range:
    say(f"{case.name}: {rounds} rounds")
    return range(rounds)


def _round(case: Case, options: Options, bare: Bare, targets: tuple[tuple[Server, Payload, int], ...]) -> Round:
    speeds = {}
    for rows in case.batches:
        options.quiet.wait()
        speeds[rows] = bare.measure(rows, options.seconds)
    bests = []
    for server, payload, connections in targets:
        options.quiet.wait()
        bursts = [_burst(server, payload, Load(connections, options.seconds / BURSTS)) for _ in range(BURSTS)]
        bests.append(max(bursts, key=lambda burst: burst[0].requests_per_second))
    (binary, binary_cpus), (json, json_cpus), (alone, _) = bests
    return Round(speeds, binary, json, alone, binary_cpus, json_cpus)


def _burst(server: Server, payload: Payload, load: Load) -> tuple[Observed, float]:
    """What the load saw, and how many processors the server had meanwhile."""
    before, started = cpu_seconds(server.pid), time.monotonic()
    observed = _load(server, payload, load)
    return observed, (cpu_seconds(server.pid) - before) / (time.monotonic() - started)


def _load(server: Server, payload: Payload, load: Load) -> Observed:
    return apply_load(server.infer_url("model"), payload, load).checked("octavo serve")


def best_batch(rounds: list[Round]) -> int:
    """The batch size whose median rows/s over the rounds is highest, so that no lucky round picks it."""
    return max(rounds[0].bare, key=lambda rows: median(one.bare[rows].rows_per_second for one in rounds))


def _ratios(rounds: list[Round], batch: int, kind: str) -> list[float]:
    return [getattr(one, kind).requests_per_second / one.bare[batch].rows_per_second for one in rounds]


def _add_table(report: Report, case: Case, rounds: list[Round]) -> None:
    best = best_batch(rounds)
    threads = f"{case.threads} engine thread{'s' if case.threads > 1 else ''}"
    served_table = Table(f"{case.name}, {threads}", _COLUMNS)
    for kind, label, connections in (
        ("binary", "binary tensors", case.connections),
        ("json", "JSON", case.connections),
        ("alone", "binary tensors", 1),
    ):
        loads: list[Observed] = [getattr(one, kind) for one in rounds]
        figures = [median(getattr(load, name) for load in loads) for name in _FIGURES]
        ratio = median(_ratios(rounds, best, kind))
        served_table.rows.append([label, str(connections), *(f"{value:.4g}" for value in figures), f"{ratio:.3f}"])
    bare_table = Table(f"{case.name}, bare ONNX Runtime, {threads}", ["batch", "rows/s", "median ms a call"])
    for rows in case.batches:
        speeds = [one.bare[rows] for one in rounds]
        rate = median(speed.rows_per_second for speed in speeds)
        time = median(speed.median_ms for speed in speeds)
        bare_table.rows.append([f"{rows}{' (best)' if rows == best else ''}", f"{rate:.4g}", f"{time:.4g}"])
    added = median(one.alone.p50_ms - one.bare[1].median_ms for one in rounds)
    calls = median(one.alone.p50_ms / one.bare[1].median_ms for one in rounds)
    report.tables += [served_table, bare_table]
    report.goals.append(Goal(f"{case.name}, 1 connection: p50 over the bare call's", added, 0.4, " ms", at_most=True))
    report.notes.append(
        f"{case.name}: at 1 connection, a request's p50 less the bare call of one row is {added * 1e3:.0f} us "
        f"({calls:.2f} times that call)."
    )
    for kind, label in (("binary", "binary tensors"), ("json", "JSON")):
        cores = f"{case.threads} core{'s' if case.threads > 1 else ''}"
        shares = [getattr(one, f"{kind}_cpus") / case.threads for one in rounds]
        per_time = [ratio / share for ratio, share in zip(_ratios(rounds, best, kind), shares, strict=True)]
        report.notes.append(
            f"{case.name}, {label}: the server itself had {median(shares):.1%} of the processor time of {cores}, wrk "
            f"most of the rest; for that time it answered {median(per_time):.3f} times the rows of the bare runtime."
        )
    report.rounds[case.name] = [one.to_json() for one in rounds]
