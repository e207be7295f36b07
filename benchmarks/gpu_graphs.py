"""The networks of the GPU benchmark, and their graphs in each precision, made by Octavo's own emitters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.errors import CannotMeasure
from benchmarks.options import Options
from benchmarks.pipeline_run import Case, run_pipeline
from benchmarks.report import Report
from models.resnet50.make import SIDE, write_resnet50
from service.domain.recipe import Budget, Calibration, Recipe, Tuning

# Speed does not depend on how well a grid fits: a few rows, and no tuning, give the graph that a full run gives.
_ROWS = 32
_THREADS = 4
_STAGES = ("inspect", "calibrate", "convert")
# TF32 is FP32's graph, built with the permission to round products' inputs to 10 bits.
PRECISIONS = ("fp32", "tf32", "fp16", "int8")


@dataclass(frozen=True)
class Network:
    """An ONNX file and the folder of its calibration.npz and validation.npz."""

    name: str
    model: Path
    data: Path


def find_networks(options: Options, folder: Path, report: Report) -> Iterator[Network]:
    """ResNet50 is made in `folder`; a network whose files are not at hand is left out, and a note says why."""
    yield make_resnet50(folder / "resnet50")
    finders: dict[str, Callable[[], tuple[Path, Path]]] = {
        "EfficientNet-Lite0": lambda: (options.find_efficientnet(), options.find_efficientnet_data()),
        "MiniLM": lambda: (options.find_minilm() / "minilm.onnx", options.find_minilm()),
    }
    for name, find in finders.items():
        try:
            yield Network(name, *find())
        except CannotMeasure as error:
            report.notes.append(f"{name} was not measured: {error}")


def make_resnet50(folder: Path) -> Network:
    """Random weights, and rows of seeded noise, which is what pictures look like to a network that never saw one."""
    model = write_resnet50(folder / "resnet50.onnx")
    for seed, split in enumerate(("calibration", "validation")):
        noise = np.random.default_rng(seed).normal(0, 1, (_ROWS, 3, SIDE, SIDE)).astype(np.float32)
        np.savez(folder / f"{split}.npz", input=noise)
    return Network("ResNet50", model, folder)


def graph_of(network: Network, precision: str, runtime: str, folder: Path) -> Path:
    """The ONNX file that `runtime` is to run. Raises CannotMeasure where a stage fails."""
    if precision in ("fp32", "tf32"):
        return network.model
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(network.name, network.model, network.data, Budget("mae", 1.0), _ROWS, _ROWS, _THREADS)
    case.prepare(folder)
    calibration = Calibration(method="minmax", rows=_ROWS)
    recipe = Recipe(precision=precision, runtime=runtime, calibration=calibration, tuning=Tuning.none())
    build = run_pipeline(case, recipe, folder / precision, _STAGES)
    converted = build.folder / runtime / "converted.onnx"
    if not converted.is_file():
        raise CannotMeasure(f"no graph was made for {runtime}: it is not installed here; install octavo[gpu]")
    return converted
