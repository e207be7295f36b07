"""The build stage: one engine for each candidate runtime, loaded and run once at every batch size it is built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.domain.recipe import BatchProfile
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.quantization.atomic_files import replacing
from service.quantization.builders.builder import Builder, builder_for
from service.quantization.conversion import CONVERTED
from service.quantization.preparation import judging_rows, reference_inputs
from service.quantization.recipes import candidate_runtimes
from service.quantization.rows import Feed
from service.quantization.task import PipelineTask, Progress

BUILT = "build.json"


def build_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes `<runtime>/<engine file>` for each runtime and what it runs. Raises EngineFailed where one cannot run."""
    runtimes = candidate_runtimes(task.recipe)
    inputs = reference_inputs(task)
    built: dict[str, Any] = {}
    files: list[str] = []
    for done, runtime in enumerate(runtimes):
        builder = builder_for(runtime)
        name = f"{runtime}/{builder.engine_file}"
        built[runtime] = _build_one(task, builder, name, inputs)
        files.append(name)
        report_progress((done + 1) / len(runtimes))
    written = task.write(BUILT, {"engines": built, "batch_max": batch_sizes(inputs, task.recipe.batch)[-1]})
    return {"files": [*files, written]}


def _build_one(task: PipelineTask, builder: Builder, name: str, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    engine_path = task.folder / name
    with replacing(engine_path) as partial:
        builder.build(task.folder / engine_path.parent.name / CONVERTED, partial, task.threads)
    engine = builder.load(engine_path, task.threads)
    try:
        _prove_runs(engine, task, batch_sizes(inputs, task.recipe.batch))
    finally:
        engine.close()
    executed = builder.executed(engine_path, task.threads)
    return {
        "file": name,
        "size_bytes": engine_path.stat().st_size,
        "int8_operators": sum(operator.int8 for operator in executed),
        "executed": [operator.to_json() for operator in executed],
    }


def batch_sizes(inputs: Sequence[TensorSpec], profile: BatchProfile) -> tuple[int, ...]:
    """The rows in a batch that an engine is built and measured for; one where an input has a fixed first axis."""
    if not all(spec.batched for spec in inputs):
        return (1,)
    return tuple(sorted({profile.min, profile.opt, profile.max}))


def _prove_runs(engine: Engine, task: PipelineTask, sizes: Sequence[int]) -> None:
    feed = Feed.of(judging_rows(task), engine.inputs)
    for size in sizes:
        engine.infer(feed.filled(size))
