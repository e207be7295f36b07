"""The child's side of the sandbox: limits itself, runs one task, and reports in JSON lines.

By hand: `echo '{"path": "model.onnx"}' | python -m service.quantization.sandbox.child PACKAGE.MODULE:FUNCTION`.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

from service.errors import OctavoError, StageCrashed, StageMemoryLimit
from service.quantization.sandbox.verdict import is_of_the_gpu, is_out_of_memory

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.1

Task = Callable[[dict[str, Any], Callable[[float], None]], dict[str, Any]]


def main() -> int:
    """Reads the task from the command line and its arguments from standard input; 0 where the task gave a result."""
    parser = argparse.ArgumentParser(prog="service.quantization.sandbox.child", description=__doc__)
    parser.add_argument("task", help="package.module:function, called with (arguments, report_progress)")
    parser.add_argument("--memory-bytes", type=int, help="limit on private memory")
    parser.add_argument("--report-fd", type=int, default=1, help="where to write JSON lines; standard output if unset")
    parser.add_argument("--parent", type=int, help="process to die with")
    options = parser.parse_args()
    if options.parent is not None:
        _die_with(options.parent)
    if options.memory_bytes is not None:
        _limit_memory(options.memory_bytes)
    arguments = json.load(sys.stdin)
    with os.fdopen(options.report_fd, "w", closefd=False) as report:
        message = _run(options.task, arguments, _Progress(report))
        _send(report, message)
    return 0 if "result" in message else 1


class _Progress:
    """Writes progress, at most ten times a second."""

    def __init__(self, report: IO[str]) -> None:
        self._report = report
        self._next = 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            _send(self._report, {"progress": min(1.0, max(0.0, fraction))})


def _send(report: IO[str], message: dict[str, Any]) -> None:
    report.write(json.dumps(message) + "\n")
    report.flush()


def _run(task: str, arguments: dict[str, Any], progress: _Progress) -> dict[str, Any]:
    try:
        return {"result": _find(task)(arguments, progress)}
    except BaseException as error:  # noqa: BLE001 - the parent must hear of every way to fail, once
        traceback.print_exc()
        return {"error": _told(error)}


def _find(task: str) -> Task:
    module, _, function = task.partition(":")
    found: Task = getattr(importlib.import_module(module), function)
    return found


def _told(error: BaseException) -> dict[str, str]:
    if any(_says_that_the_host_ran_out(cause) for cause in _chain(error)):
        return {"code": StageMemoryLimit.code, "message": str(error)}
    if isinstance(error, OctavoError):
        return {"code": error.code, "message": str(error)}
    return {"code": StageCrashed.code, "message": f"{type(error).__name__}: {error}"}


def _says_that_the_host_ran_out(error: BaseException) -> bool:
    words = str(error)
    return isinstance(error, MemoryError) or (is_out_of_memory(words) and not is_of_the_gpu(words))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _die_with(parent: int) -> None:
    """Asks Linux to kill this process when the parent's thread ends, so that `kill -9` of a worker leaves no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _limit_memory(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
