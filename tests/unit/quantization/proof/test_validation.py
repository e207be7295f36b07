"""What validation promises beside its figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.domain.recipe import BatchProfile, Recipe
from service.engines.engine import Engine
from service.engines.onnxruntime_engine import OnnxRuntimeEngine
from service.quantization.builders.onnxruntime_builder import OnnxRuntimeBuilder
from service.quantization.pipeline import STAGES
from service.quantization.proof import latency
from tests.unit.quantization.pipeline_runs import digits_task, run_one


def test_the_judged_engine_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "MAX_ROUNDS", 12)
    task = digits_task(tmp_path, Recipe(precision="fp32", runtime="onnxruntime", batch=BatchProfile(1, 2, 4)))
    for stage in STAGES[: STAGES.index("validate")]:
        run_one(task, stage)
    load, close = OnnxRuntimeBuilder.load, OnnxRuntimeEngine.close
    judged: list[Engine] = []
    given_back: list[Engine] = []

    def load_judged(builder: OnnxRuntimeBuilder, engine: Path, threads: int) -> Engine:
        judged.append(load(builder, engine, threads))
        return judged[-1]

    def close_noted(engine: OnnxRuntimeEngine) -> None:
        given_back.append(engine)
        close(engine)

    monkeypatch.setattr(OnnxRuntimeBuilder, "load", load_judged)
    monkeypatch.setattr(OnnxRuntimeEngine, "close", close_noted)
    run_one(task, "validate")
    assert judged
    assert set(map(id, judged)) <= set(map(id, given_back))
