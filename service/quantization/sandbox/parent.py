"""Runs one heavy task in a child process with a wall clock, a memory limit and cancellation.

A crash in a native library, a runaway allocation or a hang costs that child only. The child's own errors come back as
the same class; how the child died otherwise is told by `service.quantization.sandbox.verdict`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.domain.limits import StageLimits
from service.errors import JobCancelled, StageFailed, StageTimeLimit
from service.quantization.sandbox.verdict import Outcome, result_or_error

POLL_SECONDS = 0.2
_MAX_REPORT_BYTES = 64 * 1024 * 1024
_KEPT_OUTPUT_BYTES = 16 * 1024
# A child that reads untrusted files gets no secret of this process: only what an interpreter needs to start, and what
# says which GPU is the first and how it is shared.
_INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY", "SYSTEMROOT", "COVERAGE_PROCESS_START",
    "COVERAGE_PROCESS_CONFIG", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _ignore_progress(fraction: float) -> None:
    return None


def _never() -> bool:
    return False


def run_in_sandbox(
    task: str,
    arguments: dict[str, Any],
    *,
    limits: StageLimits,
    on_progress: Callable[[float], None] = _ignore_progress,
    is_cancelled: Callable[[], bool] = _never,
) -> dict[str, Any]:
    """Calls `task` ("package.module:function") with (arguments, report_progress) in a child; returns its JSON result.

    Callable from any thread; blocks it. `arguments["threads"]`, where present, also bounds the child's numpy threads.
    Raises what the child raised (any OctavoError), StageTimeLimit, StageMemoryLimit, StageCrashed or JobCancelled.
    """
    if is_cancelled():
        raise JobCancelled(f"{task} was cancelled before it started; post the request again to run it")
    child = _start(task, arguments, limits)
    try:
        _watch(child, limits, on_progress, is_cancelled)
    finally:
        _kill_group(child.process)
        child.close()
    return result_or_error(child.outcome())


@dataclass
class _Child:
    """One running child: its process, and what it has said so far on the report pipe and on its output."""

    process: subprocess.Popen[bytes]
    report: int
    task: str
    arguments: str
    memory_bytes: int
    buffer: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    last: dict[str, Any] | None = None

    def hear(self, on_progress: Callable[[float], None], data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 1]
            message = json.loads(line)
            if "progress" in message:
                on_progress(float(message["progress"]))
            else:
                self.last = message
        if len(self.buffer) > _MAX_REPORT_BYTES:
            raise StageFailed(f"{self.task} reported over {_MAX_REPORT_BYTES} bytes at once; write results to files")

    def outcome(self) -> Outcome:
        return Outcome(
            self.task, self.arguments, self.memory_bytes, self.process.returncode, self.last, bytes(self.output)
        )

    def close(self) -> None:
        os.close(self.report)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _start(task: str, arguments: dict[str, Any], limits: StageLimits) -> _Child:
    encoded = json.dumps(arguments)
    report, report_end = os.pipe()
    command = [
        *(sys.executable, "-P", "-m", "service.quantization.sandbox.child", task),
        *("--memory-bytes", str(limits.memory_bytes), "--report-fd", str(report_end), "--parent", str(os.getpid())),
    ]
    try:
        with tempfile.TemporaryFile() as stdin:
            stdin.write(encoded.encode())
            stdin.seek(0)
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(report_end,),
                env=_environment(arguments.get("threads")),
                start_new_session=True,
            )
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(report_end)
    return _Child(process, report, task, encoded, limits.memory_bytes)


def _environment(threads: object) -> dict[str, str]:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    count = str(threads) if isinstance(threads, int) and threads > 0 else "1"
    return environment | dict.fromkeys(_THREAD_VARIABLES, count)


def _watch(
    child: _Child, limits: StageLimits, on_progress: Callable[[float], None], is_cancelled: Callable[[], bool]
) -> None:
    assert child.process.stdout is not None
    deadline = time.monotonic() + limits.time_seconds
    output = child.process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        for descriptor in (child.report, output):
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while True:
            # Looked at before reading: whatever the child wrote before it ended is then surely read below.
            ended = _has_ended(child.process)
            for key, _ in selector.select(0 if ended else POLL_SECONDS):
                data = _drain(key.fd)
                if key.fd == child.report:
                    child.hear(on_progress, data)
                else:
                    child.output = (child.output + data)[-_KEPT_OUTPUT_BYTES:]
                if not data:
                    selector.unregister(key.fd)
            if ended:
                return
            _check_still_wanted(child.task, deadline, limits, is_cancelled)
            if not selector.get_map():
                time.sleep(POLL_SECONDS / 10)


def _check_still_wanted(task: str, deadline: float, limits: StageLimits, is_cancelled: Callable[[], bool]) -> None:
    if is_cancelled():
        raise JobCancelled(f"{task} was cancelled while it ran; post the request again to run it")
    if time.monotonic() >= deadline:
        raise StageTimeLimit(
            f"{task} ran longer than {limits.time_seconds:g} s; send fewer rows, a smaller batch.max, "
            "or raise OCTAVO_STAGE_TIME_SECONDS"
        )


def _drain(descriptor: int) -> bytes:
    """Everything that can be read now: at most as much as the pipe holds, so that no chatty child starves the clock."""
    chunks: list[bytes] = []
    with suppress(BlockingIOError):
        while len(chunks) < 64 and (chunk := os.read(descriptor, 65536)):
            chunks.append(chunk)
    return b"".join(chunks)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child is a zombie: not reaped yet, so that its process group's id cannot name anyone else."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and everything it started, then reaps it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
