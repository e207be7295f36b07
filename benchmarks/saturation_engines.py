"""INT8 engines of one network that differ in how large their weight integers may be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import RUNTIMES, Contender, make_static
from benchmarks.emulator import CPU_FLAGS
from benchmarks.pipeline_run import Build, Case, run_pipeline
from benchmarks.rival_quantizers import Given
from benchmarks.seven_bits import write_seven_bits
from service.domain.recipe import Calibration, Recipe, Tuning
from service.quantization.builders.builder import builder_for
from service.quantization.pipeline import available_runtimes

OURS = "Octavo for {}, default recipe"
_RUNTIME = "onnxruntime"
_VNNI = (*CPU_FLAGS, "avx512_vnni")


def make_engines(case: Case, folder: Path) -> Iterator[Contender]:
    """FP32 first and Octavo's own last, one after another, on the rows that `case.prepare` left in `folder`."""
    yield Contender("FP32", _RUNTIME, case.model)
    yield from make_static(Given(case.model, folder / "calibration.npz", case.calibration_rows, case.threads), folder)
    calibration = Calibration(rows=case.calibration_rows)
    # What is calibrated is the folded graph, as by default.
    untuned = replace(Tuning.none(), fold_batch_norm=True)
    plain = Recipe(runtime=_RUNTIME, calibration=calibration, tuning=untuned)
    calibrated = run_pipeline(case, plain, folder / "calibrated", ("inspect", "calibrate")).folder
    eight = _build(case, plain, calibrated, _VNNI)
    yield _engine(f"8 bits everywhere, no tuning, {RUNTIMES[_RUNTIME]}", eight, _RUNTIME)
    write_seven_bits(eight.folder, folder / "seven", _RUNTIME)
    seven = run_pipeline(case, plain, folder / "seven", ("build",))
    yield _engine(f"7 bits everywhere, no tuning, {RUNTIMES[_RUNTIME]}", seven, _RUNTIME)
    for runtime in (name for name in RUNTIMES if name in available_runtimes()):
        limited = _build(case, replace(plain, runtime=runtime), calibrated, CPU_FLAGS)
        yield _engine(f"Octavo's limits by channel, no tuning, {RUNTIMES[runtime]}", limited, runtime)
    for runtime in (name for name in RUNTIMES if name in available_runtimes()):
        default = _build(case, Recipe(runtime=runtime, calibration=calibration), calibrated, CPU_FLAGS)
        yield _engine(OURS.format(RUNTIMES[runtime]), default, runtime)


def _build(case: Case, recipe: Recipe, calibrated: Path, cpu_flags: tuple[str, ...]) -> Build:
    """Goes on from a calibration, which is the same whatever follows, in a copy of its folder."""
    folder = Path(tempfile.mkdtemp(dir=calibrated.parent))
    shutil.copytree(calibrated, folder, dirs_exist_ok=True)
    return run_pipeline(case, recipe, folder, ("convert", "build"), cpu_flags)


def _engine(name: str, build: Build, runtime: str) -> Contender:
    file = build.folder / runtime / builder_for(runtime).engine_file
    return Contender(name, f"octavo-{runtime}", file, build.int8_share(runtime))
