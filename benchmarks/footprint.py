"""What the serving process costs by itself: time to ready, libraries imported, memory over a bare session."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.errors import CannotMeasure
from benchmarks.imports import HEAVY, Imported, imported_modules
from benchmarks.octavo import Place, accept, free_port, is_ready, serve_program, served
from benchmarks.options import Options
from benchmarks.payloads import check_answer, make_requests
from benchmarks.process import anonymous_bytes, resident_bytes, running
from benchmarks.reference import Bare, bare_session
from benchmarks.report import Goal, Report, Table

_MIB = 2**20
_REQUESTS = 200
# The server tries an engine at these sizes before it is ready; the bare session does as much, or as little.
_WARM_SIZES = (1, 2, 4, 8, 16, 32)
_WARM_RUNS = 5


def measure_footprint(options: Options, say: Callable[[str], None]) -> Report:
    """Start, imports and memory; EfficientNet-Lite0's memory too where its ONNX file is at hand."""
    report = Report(
        "footprint",
        "Footprint of the serving process",
        "Start: from `octavo serve` on an empty state folder to the first 200 on `/v2/health/ready`, beside a Python "
        "that only imports numpy and onnxruntime. Memory: resident memory of the serving process after "
        f"{_REQUESTS} requests of one row, less that of a bare process (Python, numpy, an ONNX Runtime session on the "
        "same file) after the same inferences.",
    )
    _add_start(report, options, say)
    _add_imports(report, options, say)
    _add_memory(report, options, say)
    return report


def _add_start(report: Report, options: Options, say: Callable[[str], None]) -> None:
    say(f"start: {options.rounds + 1} times, the first for the page cache")
    starts = []
    for _ in range(options.rounds + 1):
        options.quiet.wait()
        starts.append((_seconds_to_ready(), _seconds_to_import()))
    counted = starts[1:]
    ready, imports = (median(values) for values in zip(*counted, strict=True))
    ratio = median(one / other for one, other in counted)
    table = Table("Start", ["", "seconds"])
    table.rows = [
        ["`octavo serve`, empty state, to ready (median)", f"{ready:.2f}"],
        ["the first of them, not counted", f"{starts[0][0]:.2f}"],
        ["Python that imports numpy and onnxruntime (median)", f"{imports:.2f}"],
        ["ratio (median of rounds)", f"{ratio:.1f}"],
    ]
    report.tables.append(table)
    report.goals.append(Goal("seconds from start to ready, empty state", ready, 3.0, " s", at_most=True))
    report.rounds["start"] = [{"ready_seconds": one, "import_seconds": other} for one, other in starts]


def _seconds_to_ready() -> float:
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        port = free_port()
        program = serve_program(Place(Path(folder) / "data"), port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            started = time.monotonic()
            with running(program) as process:
                while not is_ready(client):
                    if process.poll() is not None:
                        raise CannotMeasure(f"octavo serve ended with {process.returncode}: {program.log.read_text()}")
                    time.sleep(0.005)
                return time.monotonic() - started


def _seconds_to_import() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import numpy, onnxruntime"], check=True)
    return time.monotonic() - started


def _add_imports(report: Report, options: Options, say: Callable[[str], None]) -> None:
    say("modules of the serving process")
    imported = imported_modules(options.digits)
    table = Table("Heavy libraries in the serving process", ["", "modules", *HEAVY])
    for moment, modules in (("ready", imported.ready), ("after the first inference", imported.served)):
        marks = ["yes" if name in modules else "no" for name in HEAVY]
        table.rows.append([moment, str(len(modules)), *marks])
    report.tables.append(table)
    report.notes.append(_loaded(imported))
    report.rounds["top_level_modules"] = {"ready": _top_level(imported.ready), "served": _top_level(imported.served)}


def _loaded(imported: Imported) -> str:
    late = sorted(set(_top_level(imported.served)) - set(_top_level(imported.ready)))
    return f"Libraries first imported after ready, by an upload and an inference: {', '.join(late) or 'none'}."


def _top_level(modules: frozenset[str]) -> list[str]:
    return sorted({name.split(".")[0] for name in modules} - sys.stdlib_module_names)


def _add_memory(report: Report, options: Options, say: Callable[[str], None]) -> None:
    models = {"digits": (options.digits, 1)}
    try:
        models["EfficientNet-Lite0"] = (options.find_efficientnet(), 2)
    except CannotMeasure as error:
        report.notes.append(f"The memory with EfficientNet-Lite0 was not measured: {error}")
    columns = ["model", "octavo serve", "bare, same batches", "difference", "bare, single rows only", "difference"]
    table = Table("Resident memory in MiB", columns)
    for name, (model, threads) in models.items():
        say(f"memory with {name}")
        found = _memory(model, threads)
        server, same, single = (found[key]["resident"] / _MIB for key in ("server", "bare", "bare_single_rows"))
        figures = (server, same, server - same, single, server - single)
        table.rows.append([name, *(f"{value:.0f}" for value in figures)])
        report.goals.append(Goal(f"resident memory over bare, {name}", server - same, 150, " MiB", at_most=True))
        report.rounds[f"memory {name}"] = found
    report.tables.append(table)
    report.notes.append(
        "Before it answers, the server runs each engine at batches of 1 to 32 rows, and ONNX Runtime keeps the memory "
        'of the largest. "Same batches": the bare session ran them too, so the difference is what the server itself '
        "takes."
    )


def _memory(model: Path, threads: int) -> dict[str, Any]:
    """Bytes of each process, all three alive at once so that they share libraries' pages alike."""
    with (
        tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder,
        bare_session(model, threads) as bare,
        bare_session(model, threads) as single,
        served(Place(Path(folder) / "data", threads)) as server,
    ):
        server.upload_model("model", model)
        requests = make_requests(single, Path(folder) / "requests")
        body = requests.binary.body.read_bytes()
        check_answer(server.infer_url("model"), requests.binary, requests.expected)
        url, headers = server.infer_url("model"), requests.binary.headers
        for _ in range(_REQUESTS):
            accept(server.client.post(url, content=body, headers=headers))
        _repeat(bare, _WARM_SIZES, _WARM_RUNS)
        for session in (bare, single):
            _repeat(session, (1,), _REQUESTS + 1)
        pids = {"server": server.pid, "bare": bare.pid, "bare_single_rows": single.pid}
        found: dict[str, Any] = {
            name: {"resident": resident_bytes(pid), "anonymous": anonymous_bytes(pid)} for name, pid in pids.items()
        }
    return found


def _repeat(session: Bare, sizes: tuple[int, ...], runs: int) -> None:
    for rows in sizes:
        session.ask(do="repeat", rows=rows, runs=runs)
