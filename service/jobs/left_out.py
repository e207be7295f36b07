"""A stage outlives a runtime that ends its process, where another one is left to choose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from service.errors import StageCrashed, StageMemoryLimit, StageTimeLimit
from service.quantization.attempts import take_interrupted
from service.quantization.builders.building import BUILT
from service.quantization.recipes import candidate_runtimes
from service.quantization.task import PipelineTask

_log = logging.getLogger(__name__)


def run_leaving_out(task: PipelineTask, run: Callable[[PipelineTask], dict[str, Any]]) -> dict[str, Any]:
    """What `run`, which runs a stage on the task, gives; it runs again without a runtime that ended its process.

    Raises what `run` raises: also StageCrashed, StageMemoryLimit or StageTimeLimit where no runtime was being tried, or
    the last one that was left.
    """
    left_out: dict[str, str] = {}
    while True:
        # A worker that was killed left a mark that says nothing about the runtime.
        take_interrupted(task.folder)
        try:
            return run(replace(task, left_out=left_out))
        except (StageCrashed, StageMemoryLimit, StageTimeLimit) as error:
            runtime = take_interrupted(task.folder)
            if runtime is None or set(_candidates(task)) <= {runtime, *left_out}:
                raise
            left_out = left_out | {runtime: str(error)}
            _log.warning("a runtime is left out", extra={"runtime": runtime, "error": str(error)})


def _candidates(task: PipelineTask) -> Iterable[str]:
    """What the stage may try: what was built, once that is known."""
    built = task.folder / BUILT
    engines: dict[str, Any] = task.read(BUILT)["engines"] if built.exists() else {}
    return engines or candidate_runtimes(task.recipe)
