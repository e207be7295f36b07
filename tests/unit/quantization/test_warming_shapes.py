"""An engine of open axes is built only if it survives what a server warms it up with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from service.domain.inference import Array
from service.domain.recipe import Budget, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.pipeline import STAGES
from service.quantization.task import PipelineTask
from tests.unit.quantization.pipeline_runs import run_one
from tests.unit.quantization.small_models import saved, saved_rows, u_net


def test_it_is_run_at_the_shapes_of_warming_up_beside_those_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = saved_rows(tmp_path / "rows.npz", x=np.random.default_rng(0).random((40, 3, 12, 20), np.float32))
    recipe = Recipe(precision="fp32", runtime="onnxruntime")
    model = saved(u_net(), tmp_path / "m.onnx")
    task = PipelineTask(tmp_path / "job", model, recipe, Budget("mae", 1), None, rows, 1)
    shapes: set[tuple[int, ...]] = set()
    plain = OnnxRuntimeEngine.infer

    def noted(
        self: OnnxRuntimeEngine, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        shapes.add(inputs["x"].shape)
        return plain(self, inputs, outputs)

    for stage in STAGES[: STAGES.index("build")]:
        run_one(task, stage)
    monkeypatch.setattr(OnnxRuntimeEngine, "infer", noted)
    run_one(task, "build")
    assert shapes >= {(rows, 3, *side) for rows in (1, 8, 32) for side in ((12, 20), (32, 32))}
