"""A stage outlives a runtime that ends its process, where another one is left to choose."""

from __future__ import annotations

import logging
import time
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
        began = time.time()
        try:
            return run(replace(task, left_out=left_out))
        except (StageCrashed, StageMemoryLimit, StageTimeLimit) as error:
            attempt = take_interrupted(task.folder)
            if attempt is None or set(_candidates(task)) <= {attempt.runtime, *left_out}:
                raise
            if isinstance(error, StageTimeLimit) and time.time() - attempt.began < (time.time() - began) / 2:
                # It came last in a stage that was long anyway.
                raise
            left_out = left_out | {attempt.runtime: f"{_without_command(error)}; {_advice(attempt.runtime)}"}
            _log.warning("a runtime is left out", extra={"runtime": attempt.runtime, "error": str(error)})


def _without_command(error: Exception) -> str:
    """The error without the shell line that runs the stage again: the job's files go when the job ends."""
    return str(error).partition("; reproduce it with:")[0]


def _advice(runtime: str) -> str:
    return f"a job whose recipe names {runtime} alone ends with that"


def _candidates(task: PipelineTask) -> Iterable[str]:
    """What the stage may try: what was built, once that is known."""
    built = task.folder / BUILT
    engines: dict[str, Any] = task.read(BUILT)["engines"] if built.exists() else {}
    return engines or candidate_runtimes(task.recipe)
