"""EfficientNet-Lite0 in FP32, by Octavo and by other quantizers: agreement, speed and memory of each, in one table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import Contender, make_contenders
from benchmarks.mac_share import count_macs, int8_share
from benchmarks.options import Options
from benchmarks.pipeline_run import Case
from benchmarks.reference import Bare, answering
from benchmarks.report import Goal, Report, Table
from service.domain.recipe import Budget

_NAME = "EfficientNet-Lite0"
_THREADS = 2
_BATCHES = (1, 8)
_MIB = 2**20
_AGREEMENT, _INT8_SHARE, _SPEED_UP = 0.95, 0.80, 1.25


@dataclass
class Found:
    """What was measured of one engine; `speeds` by batch size, a value a round."""

    agreement: float
    sqnr_db: float
    int8_share: float
    resident_bytes: int
    disk_bytes: int
    speeds: dict[int, list[dict[str, float]]]

    def median(self, batch: int, figure: str) -> float:
        return median(speed[figure] for speed in self.speeds[batch])


def measure_engines(options: Options, say: Callable[[str], None], report: Report) -> None:
    """Raises CannotMeasure where the model or its data are not at hand."""
    model, data = options.find_efficientnet(), options.find_efficientnet_data()
    budget = Budget("agreement", 1 - _AGREEMENT)
    case = Case(_NAME, model, data, budget, options.calibration_rows, options.validation_rows, _THREADS)
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        case.prepare(folder)
        contenders = []
        for contender in make_contenders(case, folder, options.venvs, report):
            say(f"{contender.name}: made")
            contenders.append(contender)
        engines = [stack.enter_context(_session(contender)) for contender in contenders]
        found = _judge(case, folder, contenders, engines)
        for number in range(options.rounds):
            say(f"{_NAME}: round {number + 1} of {options.rounds}, {len(engines)} engines")
            _time(engines, found, options)
    measured = dict(zip([contender.name for contender in contenders], found, strict=True))
    _add_table(report, case, contenders, found)
    _add_goals(report, contenders, measured)
    report.rounds[_NAME] = {name: vars(one) for name, one in measured.items()}


def _session(contender: Contender) -> AbstractContextManager[Bare]:
    return answering("benchmarks.engine_session", contender.runtime, str(contender.file.absolute()), str(_THREADS))


def _judge(case: Case, folder: Path, contenders: list[Contender], engines: list[Bare]) -> list[Found]:
    """Loads every engine and runs it on all validation rows; the first is the reference."""
    found: list[Found] = []
    reference: NDArray[Any] | None = None
    for contender, engine in zip(contenders, engines, strict=True):
        resident = engine.ask(do="load", rows=str(folder / "validation.npz"))["resident_bytes"]
        engine.ask(do="outputs", target=str(folder / "outputs.npy"))
        outputs = np.load(folder / "outputs.npy")
        reference = outputs if reference is None else reference
        share = contender.int8_share
        if share is None:
            share = int8_share(count_macs(case.model), engine.ask(do="int8_names")["names"])
        agreement, sqnr_db = compare(reference, outputs)
        found.append(Found(agreement, sqnr_db, share, resident, contender.disk_bytes, {size: [] for size in _BATCHES}))
    return found


def _time(engines: list[Bare], found: list[Found], options: Options) -> None:
    for batch in _BATCHES:
        for engine, one in zip(engines, found, strict=True):
            options.quiet.wait()
            one.speeds[batch].append(engine.ask(do="measure", rows=batch, seconds=options.seconds))


def compare(reference: NDArray[Any], outputs: NDArray[Any]) -> tuple[float, float]:
    """How often the first class of [rows, classes] is the reference's, and the SQNR in dB: infinite where equal."""
    signal = (reference.astype(np.float64) ** 2).sum()
    noise = ((reference.astype(np.float64) - outputs) ** 2).sum()
    agreement = float((reference.argmax(axis=1) == outputs.argmax(axis=1)).mean())
    return agreement, float(10 * np.log10(signal / noise)) if noise else float("inf")


def _add_table(report: Report, case: Case, contenders: list[Contender], found: list[Found]) -> None:
    rows = f"{case.calibration_rows} calibration and {case.validation_rows} validation crops"
    columns = ["engine", "agreement", "SQNR dB", "MACs in INT8", *(f"ms, batch {batch}" for batch in _BATCHES)]
    table = Table(f"{_NAME}, {rows}, {case.threads} threads", [*columns, "MiB resident", "MiB on disk", "verdict"])
    for contender, one in zip(contenders, found, strict=True):
        row = [contender.name, f"{one.agreement:.1%}", f"{one.sqnr_db:.1f}", f"{one.int8_share:.1%}"]
        row += [f"{one.median(batch, 'median_ms'):.2f}" for batch in _BATCHES]
        row += [f"{one.resident_bytes / _MIB:.0f}", f"{one.disk_bytes / _MIB:.1f}", contender.verdict]
        table.rows.append(row)
    report.tables.append(table)


def _add_goals(report: Report, contenders: list[Contender], found: dict[str, Found]) -> None:
    ours = [contender.name for contender in contenders if contender.ours]
    for name in ours:
        report.goals.append(Goal(f"{_NAME}, {name}: agreement with FP32", found[name].agreement, _AGREEMENT))
        report.goals.append(Goal(f"{_NAME}, {name}: share of MACs in INT8", found[name].int8_share, _INT8_SHARE))
    for batch in _BATCHES:
        speed = {name: one.median(batch, "rows_per_second") for name, one in found.items()}
        best = max(speed[name] for name in ours)
        reference = max(speed[contender.name] for contender in contenders if contender.float32)
        figure = f"{_NAME}, batch {batch}: rows/s of Octavo's best INT8 engine over the best FP32 engine's"
        report.goals.append(Goal(figure, best / reference, _SPEED_UP, "x"))
