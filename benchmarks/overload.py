"""Three times as many requests as can be answered, each with a timeout: what is answered in time, and what is not."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.errors import CannotMeasure
from benchmarks.octavo import Place, Server, served
from benchmarks.options import Options
from benchmarks.payloads import HEADER_LENGTH, Payload
from benchmarks.reference import Bare, answering
from benchmarks.report import Goal, Report, Table

_TIMES = 3.0
_TIMEOUT_SECONDS = 0.5
_CONNECTIONS = 16
_OPEN_CONNECTIONS = 512
_WARM_UP_SECONDS = 2.0
_COLUMNS = [
    "model", "capacity, requests/s", "offered/s", "answered in time/s", "of capacity, worst round",
    "answer p50, p99 ms", "refused (429) p50, p99 ms", "expired (503) of accepted, worst round", "answered late",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, and the arrays of one row of its inputs."""

    name: str
    model: Path
    row: dict[str, np.ndarray[Any, Any]]


def measure_overload(options: Options, say: Callable[[str], None]) -> Report:
    """MiniLM, whose requests are small, and EfficientNet-Lite0, whose requests are 600 kB each."""
    report = Report(
        "overload",
        "Three times what can be answered",
        "`octavo serve` with one engine thread and the load generator share the cores. Capacity is what "
        f"{_CONNECTIONS} connections get answered that send as soon as they are answered. Then {_TIMES:g} times as "
        "many requests are sent at a fixed rate, whatever is answered, each with a `timeout` of "
        f"{_TIMEOUT_SECONDS:g} s. Latencies count from when a request was due to its whole answer, at the client; an "
        "answer later than the timeout is late. Both in turn in each round; figures are medians over the rounds, late "
        "answers those of all rounds.",
    )
    for case in _cases(options, report, say):
        say(f"{case.name}: {options.rounds} rounds")
        _add(report, case, _measure(case, options))
    if not report.tables:
        raise CannotMeasure("no model for it is there: " + "; ".join(report.notes))
    return report


def _cases(options: Options, report: Report, say: Callable[[str], None]) -> list[Case]:
    cases = []
    for name, find in (("MiniLM FP32", _minilm), ("EfficientNet-Lite0 FP32", _efficientnet)):
        try:
            cases.append(Case(name, *find(options)))
        except CannotMeasure as error:
            report.notes.append(f"{name} was not measured: {error}")
            say(report.notes[-1])
    return cases


def _minilm(options: Options) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    folder = options.find_minilm()
    return folder / "minilm.onnx", _first_row(folder / "validation.npz")


def _efficientnet(options: Options) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    return options.find_efficientnet(), _first_row(options.find_efficientnet_data() / "validation.npz")


def _first_row(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path) as arrays:
        return {name: arrays[name][:1] for name in arrays.files if name != "labels"}


def _measure(case: Case, options: Options) -> list[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder,
        served(Place(Path(folder) / "data")) as server,
        answering("benchmarks.open_load") as sender,
    ):
        server.upload_model("model", case.model)
        plain = _request(Path(folder) / "plain", case, None)
        hasty = _request(Path(folder) / "hasty", case, _TIMEOUT_SECONDS)
        _offer(sender, server, plain, 0, _WARM_UP_SECONDS, _CONNECTIONS)
        rounds = []
        for _ in range(options.rounds):
            options.quiet.wait()
            full = _offer(sender, server, plain, 0, options.seconds, _CONNECTIONS)
            capacity = full["200"]["within"] / options.seconds
            options.quiet.wait()
            offered = _TIMES * capacity
            found = _offer(sender, server, hasty, offered, options.seconds, _OPEN_CONNECTIONS)
            rounds.append({"capacity": capacity, "offered": offered, "seconds": options.seconds, "answers": found})
        return rounds


def _request(path: Path, case: Case, timeout: float | None) -> Payload:
    parameters: dict[str, Any] = {"binary_data_output": True}
    if timeout is not None:
        parameters["timeout"] = int(timeout * 1e6)
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": "INT64" if array.dtype == np.int64 else "FP32",
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in case.row.items()
    ]
    head = json.dumps({"parameters": parameters, "inputs": inputs}).encode()
    path.write_bytes(head + b"".join(array.tobytes() for array in case.row.values()))
    return Payload("binary", path, {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))})


def _offer(
    sender: Bare, server: Server, payload: Payload, rate: float, seconds: float, connections: int
) -> dict[str, Any]:
    load = {"rate": rate, "seconds": seconds, "connections": connections, "late_after": _TIMEOUT_SECONDS}
    found = sender.ask(url=server.infer_url("model"), body=str(payload.body), headers=payload.headers, **load)
    answers: dict[str, Any] = found["answers"]
    unexpected = answers.keys() - {"200", "429", "503"}
    if found["lost"] or unexpected or "200" not in answers:
        raise CannotMeasure(f"{found['lost']} connections were lost and statuses {sorted(answers)} came; see the log")
    return answers


def _add(report: Report, case: Case, rounds: list[dict[str, Any]]) -> None:
    def middle(figure: Callable[[dict[str, Any]], float]) -> float:
        return median(figure(one) for one in rounds)

    def figure(status: str, name: str) -> Callable[[dict[str, Any]], float]:
        return lambda one: one["answers"].get(status, {}).get(name, 0.0)

    goodput = middle(_goodput)
    shares = [_goodput(one) / one["capacity"] for one in rounds]
    # The worst: a queue that took in too much shows in some rounds only, which a median would hide.
    expired = max(_count(one, "503") / (_count(one, "503") + _count(one, "200")) for one in rounds)
    late = sum(_late(one) for one in rounds)
    if not report.tables:
        report.tables.append(Table("Each round's capacity, and then three times as much", _COLUMNS))
    report.tables[0].rows.append([
        case.name,
        f"{middle(lambda one: one['capacity']):.0f}",
        f"{middle(lambda one: one['offered']):.0f}",
        f"{goodput:.0f}",
        f"{median(shares):.3f}, {min(shares):.3f}",
        f"{middle(figure('200', 'p50_ms')):.0f}, {middle(figure('200', 'p99_ms')):.0f}",
        f"{middle(figure('429', 'p50_ms')):.2f}, {middle(figure('429', 'p99_ms')):.2f}",
        f"{expired:.2%}",
        str(late),
    ])  # fmt: skip
    report.goals += [
        Goal(f"{case.name}: answered in time over capacity", median(shares), 0.95),
        Goal(f"{case.name}: refusals, p99", middle(figure("429", "p99_ms")), 5.0, " ms", at_most=True),
        Goal(f"{case.name}: accepted requests answered late", late, 0, at_most=True),
    ]
    report.rounds[case.name] = rounds


def _count(one: dict[str, Any], status: str) -> int:
    return int(one["answers"].get(status, {}).get("count", 0))


def _late(one: dict[str, Any]) -> int:
    return int(one["answers"]["200"]["late"])


def _goodput(one: dict[str, Any]) -> float:
    return float(one["answers"]["200"]["within"] / one["seconds"])
