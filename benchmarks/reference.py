"""The harness's end of a bare ONNX Runtime process (benchmarks.bare): asks it, and relays what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import CannotMeasure

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class BareSpeed:
    """What one process calling the runtime in a loop reaches at one batch size."""

    rows_per_second: float
    median_ms: float


class Bare:
    """A live bare process; it sleeps while nothing is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, **command: object) -> dict[str, Any]:
        """Sends one command and waits for its answer. Raises CannotMeasure when the process died of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise CannotMeasure(f"the process beside this one ended on {command}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def measure(self, rows: int, seconds: float) -> BareSpeed:
        return BareSpeed(**self.ask(do="measure", rows=rows, seconds=seconds))


def bare_session(model: Path, threads: int) -> AbstractContextManager[Bare]:
    """ONNX Runtime alone on `model` with `threads` intra-op threads."""
    return answering("benchmarks.bare", str(model.absolute()), str(threads))


@contextmanager
def answering(module: str, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[Bare]:
    """A process of `module` that answers a line of JSON with one; it ends with the context. `prefix` starts it."""
    command = [*prefix, sys.executable, "-m", module, *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Bare(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def clean_environment(**settings: str) -> dict[str, str]:
    """This process's environment without any OCTAVO_ setting of the caller's: what is measured are the defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
    return kept | settings
