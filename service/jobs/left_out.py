"""A stage outlives a runtime that ends its process, where the recipe leaves another to choose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from service.errors import StageCrashed
from service.quantization.attempts import unfinished_attempts
from service.quantization.task import PipelineTask

_log = logging.getLogger(__name__)


def run_leaving_out(task: PipelineTask, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run`, which runs a stage on the task, gives; for `auto` it runs again without a runtime that crashed it.

    Raises what `run` raises: StageCrashed where no runtime was being tried, or the recipe names the only one.
    """
    crashed = unfinished_attempts(task.folder)
    while True:
        try:
            return run()
        except StageCrashed as error:
            before, crashed = crashed, unfinished_attempts(task.folder)
            if task.recipe.runtime != "auto" or crashed == before:
                raise
            _log.warning("a runtime is left out", extra={"runtimes": sorted(crashed), "error": str(error)})
