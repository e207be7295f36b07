"""Which candidate's engine a stage is running: one that ends the process is left out when the stage runs again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import EngineFailed
from service.quantization.task import PipelineTask

_MARK = "attempt"


@contextmanager
def attempt(task: PipelineTask, runtime: str) -> Iterator[None]:
    """Goes around all that runs a runtime's engine. Raises EngineFailed where an earlier attempt ended the process."""
    mark = task.folder / runtime / _MARK
    if mark.exists():
        raise EngineFailed(
            f"the engine for {runtime} ended the process that ran it, and is left out. "
            f"A job whose recipe names {runtime} alone shows how it ended"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield
    finally:
        mark.unlink()


def unfinished_attempts(folder: Path) -> frozenset[str]:
    """The runtimes whose attempts in a task's folder have not ended. For use while no process works on it."""
    return frozenset(mark.parent.name for mark in folder.glob(f"*/{_MARK}"))
