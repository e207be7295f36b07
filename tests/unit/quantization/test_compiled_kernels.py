"""What an engine compiles while it is validated is a file of the stage, so that publication finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.domain.recipe import BatchProfile, Budget, Recipe
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from service.quantization.kept_files import RUNTIME_CACHE
from service.quantization.pipeline import STAGES, PipelineTask, run_stage
from service.quantization.proof import latency
from tests.unit.quantization.small_models import classifier, images, saved, saved_rows


class CompilingEngine(OnnxRuntimeEngine):
    folder: Path

    def keep_compiled(self) -> None:
        (self.folder / RUNTIME_CACHE).write_bytes(b"kernels")


def load(_builder: OnnxRuntimeBuilder, engine: Path, threads: int) -> OnnxRuntimeEngine:
    CompilingEngine.folder = engine.parent
    return CompilingEngine.load(engine, threads)


@pytest.mark.parametrize("compiles", [True, False])
def test_validation_lists_what_an_engine_compiled_beside_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)
    if compiles:
        monkeypatch.setattr(OnnxRuntimeBuilder, "load", load)
    path, rows = saved(classifier(), tmp_path / "m.onnx"), saved_rows(tmp_path / "rows.npz", x=images(64, 1))
    recipe = Recipe(runtime="onnxruntime", precision="fp16", batch=BatchProfile(1, 2, 4))
    task = PipelineTask(tmp_path / "job", path, recipe, Budget(max_loss=0.05), None, rows, 1)
    found = {}
    for stage in STAGES[: STAGES.index("validate") + 1]:
        found[stage] = run_stage({"stage": stage, "task": task.to_json()}, lambda fraction: None)
    kept = [f"onnxruntime/{RUNTIME_CACHE}"] if compiles else []
    assert found["validate"]["files"] == ["validate.json", *kept]
    assert all((task.folder / name).exists() for name in kept)
