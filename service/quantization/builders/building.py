"""The build stage: one engine for each candidate runtime, loaded and run once at every batch size it is built for.

An engine for a device that this host lacks is built all the same, and says why it was not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from service.domain.recipe import BatchProfile
from service.domain.tensor import TensorSpec
from service.engines.engine import Engine
from service.engines.samples import sampler_for
from service.errors import OctavoError
from service.quantization.atomic_files import replacing
from service.quantization.attempts import attempt
from service.quantization.builders.builder import Builder, BuildOptions, ExecutedOperator, builder_for
from service.quantization.conversion.conversion import CONVERTED
from service.quantization.data.rows import Feed
from service.quantization.kept_files import TIMING_CACHE
from service.quantization.preparation.preparation import judging_rows, reference_inputs
from service.quantization.recipes import candidate_runtimes
from service.quantization.task import PipelineTask, Progress

BUILT = "build.json"


def build_stage(task: PipelineTask, report_progress: Progress) -> dict[str, Any]:
    """Writes `<runtime>/<engine file>` for each runtime, what it runs, and why a runtime refused the graph.

    Raises what the first one refused where none builds it.
    """
    runtimes = candidate_runtimes(task.recipe)
    inputs = reference_inputs(task)
    built: dict[str, Any] = {}
    refused: dict[str, OctavoError] = {}
    files: list[str] = []
    for done, runtime in enumerate(runtimes):
        builder = builder_for(runtime)
        name = f"{runtime}/{builder.engine_file}"
        try:
            with attempt(task, runtime):
                built[runtime] = _build_one(task, builder, name, inputs)
        except OctavoError as error:
            refused[runtime] = error
        else:
            cache = f"{runtime}/{TIMING_CACHE}"
            files += [name, cache] if (task.folder / cache).exists() else [name]
        report_progress((done + 1) / len(runtimes))
    if not built:
        raise next(iter(refused.values()))
    told = {runtime: str(error) for runtime, error in refused.items()}
    largest = batch_sizes(inputs, task.recipe.batch)[-1]
    written = task.write(BUILT, {"engines": built, "refused": told, "batch_max": largest})
    return {"files": [*files, written]}


def _build_one(task: PipelineTask, builder: Builder, name: str, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    engine_path = task.folder / name
    sizes = batch_sizes(inputs, task.recipe.batch)
    profile = BatchProfile(sizes[0], min(task.recipe.batch.opt, sizes[-1]), sizes[-1])
    options = BuildOptions(task.threads, profile, engine_path.parent / TIMING_CACHE, task.recipe.weights)
    with replacing(engine_path) as partial:
        notes = builder.build(engine_path.parent / CONVERTED, partial, options)
    unproven = builder.why_not_here()
    executed = notes.pop("executed", [])
    if not unproven:
        executed = [operator.to_json() for operator in _run_once(task, builder, engine_path, sizes)]
    return {
        "file": name,
        "size_bytes": engine_path.stat().st_size,
        "int8_operators": sum(operator["int8"] for operator in executed),
        "executed": executed,
        "unproven": unproven,
        "notes": notes,
    }


def _run_once(
    task: PipelineTask, builder: Builder, engine_path: Path, sizes: Sequence[int]
) -> tuple[ExecutedOperator, ...]:
    engine = builder.load(engine_path, task.threads)
    try:
        _prove_runs(engine, task, sizes)
    finally:
        engine.close()
    return builder.executed(engine_path, task.threads)


def batch_sizes(inputs: Sequence[TensorSpec], profile: BatchProfile) -> tuple[int, ...]:
    """The rows in a batch that an engine is built and measured for; one where an input has a fixed first axis."""
    if not all(spec.batched for spec in inputs):
        return (1,)
    return tuple(sorted({profile.min, profile.opt, profile.max}))


def _prove_runs(engine: Engine, task: PipelineTask, sizes: Sequence[int]) -> None:
    feed = Feed.of(judging_rows(task), engine.inputs)
    for size in sizes:
        engine.infer(feed.filled(size))
    if not any(-1 in spec.row_shape for spec in engine.inputs):
        return
    # A server warms up with these, where a crash would cost it all its models. One that is refused costs nothing.
    with suppress(OctavoError):
        if (sampler := sampler_for(engine)) is not None:
            for size in sizes:
                engine.infer(sampler.zeros(size))
