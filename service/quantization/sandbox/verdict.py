"""How a sandboxed child ended: its result, its own error, or the error that its way of dying stands for."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from dataclasses import dataclass
from typing import Any

from service.errors import OctavoError, StageCrashed, StageMemoryLimit, error_class

_MIB = 1024 * 1024
_SHOWN_LINES = 5
_SHOWN_LINE_CHARACTERS = 300
# What allocators say when they run dry: Python's, C++'s, ONNX Runtime's, the system's, OpenBLAS's and protobuf's two.
_OUT_OF_MEMORY = (
    "memoryerror", "bad_alloc", "failed to allocate memory", "cannot allocate memory", "out of memory",
    "memory allocation", "arena alloc failed", "failed to serialize proto",
)  # fmt: skip
# The GPU's in our own words, and in those of pycuda, ONNX Runtime and TensorRT.
_GPU_MEMORY = re.compile(r"\bGPU(?:'s)? memory|\bcuMem|\bcudaMalloc|\bCUDA (?:failure|error|runtime)", re.IGNORECASE)


def is_out_of_memory(text: str) -> bool:
    """Whether an error's words mean that memory ran out, be it the host's or the GPU's."""
    return any(phrase in text.lower() for phrase in _OUT_OF_MEMORY)


def is_of_the_gpu(text: str) -> bool:
    """Whether an error's words are about the GPU's memory, on which no limit of a stage has a bearing."""
    return _GPU_MEMORY.search(text) is not None


@dataclass(frozen=True)
class Outcome:
    """A finished child: `last` is its final message, if it sent one; `output` the end of its stdout and stderr."""

    task: str
    arguments: str
    memory_bytes: int
    returncode: int
    last: dict[str, Any] | None
    output: bytes

    @property
    def reproduce(self) -> str:
        """A shell line that runs the same task again, outside the service."""
        command = [sys.executable, "-m", "service.quantization.sandbox.child", self.task]
        limit = ["--memory-bytes", str(self.memory_bytes)]
        return f"echo {shlex.quote(self.arguments)} | {shlex.join(command + limit)}"

    @property
    def last_lines(self) -> str:
        lines = [line for line in self.output.decode(errors="replace").splitlines() if line.strip()]
        return " | ".join(line.strip()[:_SHOWN_LINE_CHARACTERS] for line in lines[-_SHOWN_LINES:]) or "(none)"


def result_or_error(outcome: Outcome) -> dict[str, Any]:
    """The child's result. Raises its own OctavoError again, or StageMemoryLimit, or StageCrashed."""
    if outcome.last is not None and "result" in outcome.last:
        result: dict[str, Any] = outcome.last["result"]
        return result
    if outcome.last is not None and "error" in outcome.last:
        raise _told_error(outcome, outcome.last["error"])
    raise _untold_error(outcome)


def _told_error(outcome: Outcome, error: dict[str, str]) -> OctavoError:
    if error["code"] == StageMemoryLimit.code:
        return _memory_error(outcome)
    if error["code"] == StageCrashed.code:
        return StageCrashed(f"{outcome.task} failed: {error['message']}; reproduce it with: {outcome.reproduce}")
    return error_class(error["code"])(error["message"])


def _untold_error(outcome: Outcome) -> OctavoError:
    killed = outcome.returncode == -signal.SIGKILL
    if killed or is_out_of_memory(outcome.output.decode(errors="replace")):
        return _memory_error(outcome)
    return StageCrashed(
        f"{outcome.task} {_way_of_dying(outcome.returncode)}; its last output: {outcome.last_lines}; "
        f"reproduce it with: {outcome.reproduce}"
    )


def _memory_error(outcome: Outcome) -> StageMemoryLimit:
    return StageMemoryLimit(
        f"{outcome.task} needed more memory than its limit of {outcome.memory_bytes / _MIB:.0f} MiB, or than this host "
        "has free; lower batch.max, use a smaller model, or raise OCTAVO_STAGE_MEMORY_BYTES"
    )


def _way_of_dying(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with status {returncode} and no result"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"crashed with {name}"
