"""The same INT8 files on this CPU and on one with AVX2 and without VNNI, whose kernels add two products in 16 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import RUNTIMES, Contender
from benchmarks.emulator import emulator
from benchmarks.errors import CannotMeasure
from benchmarks.options import DIGITS, Options
from benchmarks.pipeline_run import Case
from benchmarks.quantization_engines import compare
from benchmarks.reference import answering
from benchmarks.report import Goal, Report, Table
from benchmarks.saturation_engines import OURS, make_engines
from service.domain.recipe import Budget

_AGREEMENT, _INT8_SHARE = 0.95, 0.80
# Processes under the emulator at a time.
_EMULATORS = 2
_COLUMNS = ["engine", "MACs in INT8", "agreement here", "on AVX2", "SQNR dB here", "on AVX2", "largest difference"]


@dataclass(frozen=True)
class Found:
    """What one engine gives here and on the emulated CPU; `difference` is the largest of any output between the two."""

    int8_share: float
    agreement: float
    sqnr_db: float
    emulated_agreement: float
    emulated_sqnr_db: float
    difference: float

    def row(self, name: str) -> list[str]:
        cells = [name, f"{self.int8_share:.1%}", f"{self.agreement:.1%}", f"{self.emulated_agreement:.1%}"]
        return [*cells, f"{self.sqnr_db:.1f}", f"{self.emulated_sqnr_db:.1f}", f"{self.difference:.3g}"]


def measure_saturation(options: Options, say: Callable[[str], None]) -> Report:
    """Raises CannotMeasure without an emulator; a network whose files are not at hand is left out, with a note."""
    prefix = emulator()
    report = Report(
        "saturation",
        "INT8 on a CPU without VNNI",
        "Each engine file runs on this host (here) and under `qemu-user` as on a Haswell, which has AVX2 but no VNNI "
        "(on AVX2), with the same rows. Octavo's files come from the stages of its pipeline, which were given the "
        "other CPU's flags. Agreement is how often the first class is FP32's, SQNR the logits' signal over their "
        "error, and the largest difference that of any output between the two CPUs, in the output's units; on a host "
        "without VNNI there is none. An emulator's speed says nothing of a CPU's, so no time is given.",
    )
    for case in _cases(options, report):
        _measure(case, prefix, say, report)
    return report


def _cases(options: Options, report: Report) -> list[Case]:
    calibration, agreement = options.calibration_rows, Budget("agreement", 1 - _AGREEMENT)
    found = [Case("Digits CNN", options.digits, DIGITS, agreement, calibration, options.validation_rows, 1)]
    try:
        model, data = options.find_efficientnet(), options.find_efficientnet_data()
        found.append(Case("EfficientNet-Lite0", model, data, agreement, calibration, options.emulated_rows, 1))
    except CannotMeasure as error:
        report.notes.append(f"EfficientNet-Lite0 was not measured: {error}")
    return found


def _measure(case: Case, prefix: tuple[str, ...], say: Callable[[str], None], report: Report) -> None:
    """The emulator runs one engine while the next is built: nothing here is timed."""
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as name, ThreadPoolExecutor(_EMULATORS) as pool:
        folder = Path(name)
        case.prepare(folder)
        engines = make_engines(case, folder)
        reference = _outputs(folder, (), next(engines))
        running = []
        for engine in engines:
            say(f"{case.name}, {engine.name}: made")
            running.append((engine, _outputs(folder, (), engine), pool.submit(_outputs, folder, prefix, engine)))
        for engine, here, emulated in running:
            found[engine.name] = judge(engine.int8_share or 0.0, reference, (here, emulated.result()))
            say(f"{case.name}, " + " | ".join(found[engine.name].row(engine.name)))
    _add(case, found, report)


def _outputs(folder: Path, prefix: tuple[str, ...], engine: Contender) -> NDArray[Any]:
    """The first output for all validation rows, from a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        arguments = (engine.runtime, str(engine.file.absolute()), "1")
        with answering("benchmarks.engine_session", *arguments, prefix=prefix) as session:
            session.ask(do="load", rows=str(folder / "validation.npz"))
            session.ask(do="outputs", target=f"{own}/outputs.npy")
        outputs: NDArray[Any] = np.load(f"{own}/outputs.npy")
        return outputs


def judge(int8_share: float, reference: NDArray[Any], outputs: tuple[NDArray[Any], NDArray[Any]]) -> Found:
    """`outputs` [rows, classes] are this host's and the emulated CPU's, `reference` FP32's on this host."""
    here, emulated = outputs
    difference = float(np.abs(here.astype(np.float64) - emulated).max())
    return Found(int8_share, *compare(reference, here), *compare(reference, emulated), difference)


def _add(case: Case, found: dict[str, Found], report: Report) -> None:
    rows = f"{case.calibration_rows} calibration and {case.validation_rows} validation rows"
    report.tables.append(Table(f"{case.name}, {rows}", _COLUMNS, [one.row(name) for name, one in found.items()]))
    report.rounds[case.name] = {name: vars(one) for name, one in found.items()}
    for title in RUNTIMES.values():
        ours, name = found.get(OURS.format(title)), f"{case.name}, {title}"
        if ours is None:
            continue
        report.goals.append(Goal(f"{name}: agreement with FP32 on AVX2", ours.emulated_agreement, _AGREEMENT))
        report.goals.append(Goal(f"{name}: share of MACs in INT8", ours.int8_share, _INT8_SHARE))
        report.goals.append(Goal(f"{name}: largest difference of AVX2 to here", ours.difference, 0, at_most=True))
