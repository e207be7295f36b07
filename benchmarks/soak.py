"""Minutes of mixed traffic under random swaps, settings and disconnects: every answer checked, memory watched."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from benchmarks.errors import CannotMeasure
from benchmarks.jobs import wait_for_end
from benchmarks.octavo import Place, Server, accept, served, working
from benchmarks.options import DIGITS, SWISH, Options
from benchmarks.process import anonymous_bytes
from benchmarks.report import Goal, Report, Table
from benchmarks.soak_traffic import Caller, Subject, Tally, ask

_CALLERS = 8
_ROWS = 64
_REFERENCE = "fp32-onnxruntime"
# A round of the other benchmarks' length is too short for memory to show anything.
_LENGTHS = 20
_SAMPLE_SECONDS = 1.0
_MIB = 1024 * 1024


def measure_soak(options: Options, say: Callable[[str], None]) -> Report:
    """`rounds` times twenty `seconds` of it; with the defaults, ten minutes."""
    seconds = options.rounds * options.seconds * _LENGTHS
    report = Report(
        "soak",
        "Mixed traffic under swaps and disconnects",
        f"{_CALLERS} callers send requests of 1 to 4 rows to two models, binary and JSON, some with timeouts, some "
        "hanging up. Meanwhile the first model's stable variant, canary, shadow and batching change at random, and the "
        "second is unloaded and loaded. Every answer is compared with what its variant answered to each row alone. "
        "Memory is the server's own (RssAnon), without the first fifth of the time, in which its allocator fills up.",
    )
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as folder:
        place = Place(Path(folder) / "data")
        with served(place) as server:
            digits, swish = _prepare(server, place, say)
            say(f"{seconds:g} s of traffic")
            tally, changes, memory = _soak(server, [digits, swish], list(digits.expected), seconds)
    _add(report, tally, changes, memory, seconds)
    return report


def _prepare(server: Server, place: Place, say: Callable[[str], None]) -> tuple[Subject, Subject]:
    """Both models, INT8 and FP16 variants of the first, and the answers of each."""
    say("building variants")
    server.upload_model("digits", DIGITS / "digits.onnx")
    server.upload_model("swish", SWISH)
    server.upload_dataset("digits-calibration", DIGITS / "calibration.npz")
    server.upload_dataset("digits-validation", DIGITS / "validation.npz")
    with working(place):
        variants = [_REFERENCE, _built(server, "int8"), _built(server, "fp16")]
    with np.load(DIGITS / "validation.npz") as arrays:
        name = next(name for name in arrays.files if name != "labels")
        rows = arrays[name][:_ROWS]
    digits, swish = Subject("digits", name, rows), Subject("swish", name, rows, comes_and_goes=True)
    for variant in variants:
        _deploy(server.client, {"stable": {"variant": variant}})
        answering, digits.expected[variant] = ask(server.client, digits)
        if answering != variant:
            raise CannotMeasure(f"variant {variant} was deployed and {answering} answers")
    swish.expected[_REFERENCE] = ask(server.client, swish)[1]
    return digits, swish


def _built(server: Server, precision: str) -> str:
    body = {
        "model": "digits",
        "recipe": {"precision": precision, "runtime": "onnxruntime"},
        "calibration": "digits-calibration",
        "validation": "digits-validation",
        "budget": {"metric": "top1", "max_loss": 1.0},
    }
    job = wait_for_end(server, accept(server.client.post("/quantize", json=body)).json()["id"])
    if job["state"] != "succeeded":
        raise CannotMeasure(f"the {precision} job is {job['state']}: {job['error']}")
    return str(job["result"]["variant"])


def _deploy(client: httpx.Client, routes: dict[str, Any]) -> None:
    accept(client.put("/models/digits/deployment", json={"version": 1} | routes))


def _soak(
    server: Server, subjects: list[Subject], variants: list[str], seconds: float
) -> tuple[Tally, int, list[float]]:
    """What callers saw, how many changes there were, and the memory of each second in MiB."""
    tally, stop = Tally(), threading.Event()
    callers = [Caller(server.url, subjects, tally, stop, seed) for seed in range(_CALLERS)]
    for caller in callers:
        caller.start()
    chance, changes, memory = random.Random(0), 0, []
    ends = time.monotonic() + seconds
    sample_at = 0.0
    try:
        while time.monotonic() < ends:
            _change(server.client, chance, variants)
            changes += 1
            if time.monotonic() >= sample_at:
                memory.append(anonymous_bytes(server.pid) / _MIB)
                sample_at = time.monotonic() + _SAMPLE_SECONDS
            time.sleep(chance.uniform(0, 0.2))
    finally:
        stop.set()
        for caller in callers:
            caller.join(60)
            if caller.is_alive():
                tally.add("hung", caller.name)
    return tally, changes, memory


def _change(client: httpx.Client, chance: random.Random, variants: list[str]) -> None:
    """One change of what answers or how, at random."""
    kind = chance.randrange(4)
    stable, canary, shadow = chance.sample(variants, 3)
    if kind == 0:
        _deploy(client, {"stable": {"variant": stable}})
    elif kind == 1:
        routes = {"canary": {"variant": canary, "weight": chance.randint(1, 99)}, "shadow": {"variant": shadow}}
        _deploy(client, {"stable": {"variant": stable}} | routes)
    elif kind == 2:
        sizes = chance.choice([[], [4], [4, 8]])
        wish = {"preferred_batch_rows": sizes, "batch_delay_seconds": chance.choice([None, 0.001, 0.005])}
        wish |= chance.choice([{}, {"priority_levels": 3, "default_priority": 2}])
        accept(client.put("/models/digits/batching", json=wish | {"max_batch_rows": chance.choice([None, 8, 16])}))
    else:
        accept(client.post("/v2/repository/models/swish/unload"))
        accept(client.post("/v2/repository/models/swish/load"))


def _add(report: Report, tally: Tally, changes: int, memory: list[float], seconds: float) -> None:
    counts = tally.counts
    rest = memory[len(memory) // 5 :]
    half = len(rest) // 2
    early, late = median(rest[:half] or [0.0]), median(rest[half:] or [0.0])
    report.goals += [
        Goal("wrong answers", counts["wrong"], 0, at_most=True),
        Goal("failed requests", counts["failed"], 0, at_most=True),
        Goal("requests that hung", counts["hung"], 0, at_most=True),
        Goal("memory of the second half over that of the first", late / early if early else 0.0, 1.05, at_most=True),
    ]
    table = Table("What was seen", ["what", "count"], [[what, str(count)] for what, count in sorted(counts.items())])
    table.rows += [["changes of what answers, or how", str(changes)], ["seconds", f"{seconds:g}"]]
    table.rows += [["MiB of memory, median of the first half", f"{early:.0f}"], ["of the second half", f"{late:.0f}"]]
    report.tables.append(table)
    report.notes += tally.words
    report.rounds = {"counts": dict(counts), "changes": changes, "memory_mib": memory}
