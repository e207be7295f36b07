"""The engines of one model that are to be compared: FP32, Octavo's, and those of other quantizers on the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.mac_share import count_macs, int8_names, int8_share
from benchmarks.pipeline_run import Case, run_pipeline
from benchmarks.report import Report
from benchmarks.rival_quantizers import NNCF, Given, quantize_by_nncf, quantize_static
from service.domain.recipe import Calibration, Recipe
from service.quantization.builders.builder import builder_for
from service.quantization.pipeline import available_runtimes

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
# NNCF keeps what it saw of each row, 150 MB for EfficientNet-Lite0: 64 rows took 9.9 GB, 256 more than 24.
_NNCF_ROWS = 64
_STATIC = {"U8S8 per channel": (), "U8S8 per channel, reduce_range": ("--reduce-range",)}


@dataclass(frozen=True)
class Contender:
    """What benchmarks.engine_session is to load, and the share of multiply-accumulates that it runs in INT8.

    `int8_share` is None where only the loaded engine can tell.
    """

    name: str
    runtime: str
    file: Path
    int8_share: float | None = 0.0
    verdict: str = ""

    @property
    def ours(self) -> bool:
        return self.runtime.startswith("octavo-")

    @property
    def float32(self) -> bool:
        return self.name.startswith("FP32")

    @property
    def disk_bytes(self) -> int:
        """OpenVINO's own format keeps the weights in a file beside it."""
        return sum(path.stat().st_size for path in (self.file, self.file.with_suffix(".bin")) if path.is_file())


def make_contenders(case: Case, folder: Path, venvs: Path, report: Report) -> Iterator[Contender]:
    """One after another, FP32 on ONNX Runtime first, on the rows that `case.prepare` left; notes tell what failed."""
    runtimes = [runtime for runtime in RUNTIMES if find_spec(runtime) is not None]
    for runtime in runtimes:
        yield Contender(f"FP32, {RUNTIMES[runtime]}", runtime, case.model)
    for runtime in runtimes:
        if runtime in available_runtimes():
            yield _octavo(case, runtime, folder)
    given = Given(case.model, folder / "calibration.npz", case.calibration_rows, case.threads)
    yield from make_static(given, folder)
    try:
        if "openvino" not in runtimes:
            raise CannotMeasure("openvino is not installed")
        few = replace(given, count=min(given.count, _NNCF_ROWS))
        quantize_by_nncf(few, folder / "nncf.xml", venvs)
        yield Contender(f"INT8, {NNCF}, mixed preset, {few.count} rows", "openvino", folder / "nncf.xml", None)
    except CannotMeasure as error:
        report.notes.append(f"NNCF was not measured: {error}")


def _octavo(case: Case, runtime: str, folder: Path) -> Contender:
    """By the default recipe: what a user gets who names a model, its data and the runtime."""
    recipe = Recipe(runtime=runtime, calibration=Calibration(rows=case.calibration_rows))
    build = run_pipeline(case, recipe, folder / f"build-{runtime}")
    name = f"INT8, Octavo for {RUNTIMES[runtime]}"
    return Contender(name, f"octavo-{runtime}", build.engine, build.int8_share(runtime), build.verdict)


def make_static(given: Given, folder: Path) -> Iterator[Contender]:
    """Those of ONNX Runtime's quantizer, written to `folder`."""
    for name, settings in _STATIC.items():
        yield _static(given, name, settings, folder)


def _static(given: Given, name: str, settings: tuple[str, ...], folder: Path) -> Contender:
    file = folder / f"static-{len(settings)}.onnx"
    quantize_static(given, file, *settings)
    names = int8_names(builder_for("onnxruntime").executed(file, given.threads))
    share = int8_share(count_macs(given.model), names)
    return Contender(f"INT8, `quantize_static` {name}", "onnxruntime", file, share)
