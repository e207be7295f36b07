"""Which candidate's engine a stage is running: one that ends the process can be left out when the stage runs again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.errors import EngineFailed, OctavoError
from service.quantization.task import PipelineTask

_MARK = "attempted"


@contextmanager
def attempt(task: PipelineTask, runtime: str) -> Iterator[None]:
    """Goes around all that runs a runtime's engine. Raises EngineFailed where the task leaves that runtime out."""
    why = task.left_out.get(runtime)
    if why is not None:
        raise EngineFailed(f"{runtime} is left out, for the stage ended while it was tried: {why}")
    mark = task.folder / _MARK
    mark.write_text(runtime)
    try:
        yield
    except OctavoError:
        mark.unlink()
        raise
    # What else is raised, such as MemoryError, ends the process; so does a crash.
    mark.unlink()


class Interrupted(NamedTuple):
    """The runtime that was being tried when a process ended, and since when, in seconds since 1970."""

    runtime: str
    began: float


def take_interrupted(folder: Path) -> Interrupted | None:
    """What was being tried in a task's folder when its process ended; forgotten from then on.

    For use while no process works there.
    """
    mark = folder / _MARK
    found = Interrupted(mark.read_text(), mark.stat().st_mtime) if mark.exists() else None
    mark.unlink(missing_ok=True)
    return found
