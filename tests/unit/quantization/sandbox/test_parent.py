"""A child that misbehaves costs itself only, and its parent learns how it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.domain.limits import MIB, StageLimits
from service.errors import EngineFailed, InvalidModel, JobCancelled, StageCrashed, StageMemoryLimit, StageTimeLimit
from service.quantization.sandbox.parent import run_in_sandbox

TASKS = "tests.unit.quantization.sandbox_tasks"
ROOM = StageLimits(time_seconds=30, memory_bytes=2048 * MIB)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="resource limits and /proc are Linux's")


def run(task: str, limits: StageLimits = ROOM, **arguments: Any) -> dict[str, Any]:
    return run_in_sandbox(f"{TASKS}:{task}", arguments, limits=limits)


def wait_until(met: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, "the condition was not met in time"
        threading.Event().wait(0.01)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_a_task_gives_its_result_and_reports_rising_progress() -> None:
    seen: list[float] = []
    result = run_in_sandbox(f"{TASKS}:add", {"left": 2, "right": 3}, limits=ROOM, on_progress=seen.append)
    assert result == {"sum": 5}
    assert seen == sorted(seen)
    assert len(seen) >= 3


def test_an_error_that_the_task_raises_on_purpose_comes_back_as_itself() -> None:
    with pytest.raises(InvalidModel, match=r"^the opset is 99; export the model with opset 7 to 28$"):
        run("refuse")


def test_an_unexpected_exception_is_a_crash_that_names_it_and_how_to_reproduce_it() -> None:
    with pytest.raises(StageCrashed, match=r"KeyError: 'absent'; reproduce it with: echo '{}' \| "):
        run("fail")


def test_a_segmentation_fault_is_told_by_its_signal_with_the_last_output() -> None:
    with pytest.raises(StageCrashed, match=r"crashed with SIGSEGV; its last output: .*about to read address zero"):
        run("crash")


def test_the_command_in_a_crash_message_reproduces_the_crash() -> None:
    with pytest.raises(StageCrashed) as caught:
        run("crash")
    command = str(caught.value).split("reproduce it with: ")[1]
    again = subprocess.run(command, shell=True, capture_output=True, timeout=30, check=False)
    assert b"about to read address zero" in again.stderr


def test_a_child_that_leaves_without_a_result_is_a_crash_with_its_status() -> None:
    with pytest.raises(StageCrashed, match="exited with status 3 and no result"):
        run("leave")


@linux_only
def test_a_task_over_its_memory_limit_says_so_with_the_limit() -> None:
    with pytest.raises(StageMemoryLimit, match=r"needed more memory than its limit of 512 MiB.*OCTAVO_STAGE_MEMORY"):
        run("allocate", StageLimits(30, 512 * MIB), megabytes=1024)


def test_a_task_within_its_memory_limit_is_left_alone() -> None:
    assert run("allocate", StageLimits(30, 512 * MIB), megabytes=64) == {"blocks": 4}


@pytest.mark.parametrize("task", ["kill_itself", "allocate_natively"])
def test_a_kernel_kill_and_a_native_allocation_failure_count_as_out_of_memory(task: str) -> None:
    with pytest.raises(StageMemoryLimit, match="or than this host has free"):
        run(task)


@pytest.mark.parametrize(
    "message",
    [
        "the GPU's memory is used up: cuMemAlloc failed: out of memory; deploy fewer engines on it",
        "ONNX Runtime failed on this batch: CUDA failure 2: out of memory ; GPU=0",
        "TensorRT gave no engine: Error Code 1: Cuda Runtime (out of memory); lower batch.max",
    ],
)
def test_an_engine_that_ran_out_of_gpu_memory_keeps_its_own_words(message: str) -> None:
    with pytest.raises(EngineFailed) as caught:
        run("fail_as_an_engine", message=message, cause="cuMemAlloc failed: out of memory")
    assert str(caught.value) == message


def test_gpu_memory_that_a_library_lacks_is_not_told_as_the_limit_on_the_hosts() -> None:
    with pytest.raises(StageCrashed, match=r"RuntimeError: cuMemAlloc failed: out of memory; reproduce it with"):
        run("fail_as_a_library", message="cuMemAlloc failed: out of memory")


def test_an_engine_that_ran_out_of_the_hosts_memory_is_told_the_limit() -> None:
    words = "Failed to allocate memory for requested buffer of size 1073741824"
    with pytest.raises(StageMemoryLimit, match="OCTAVO_STAGE_MEMORY_BYTES"):
        run("fail_as_an_engine", message=f"ONNX Runtime failed on this batch: {words}", cause=words)


def test_a_task_over_its_time_is_killed_and_the_message_names_the_limit() -> None:
    started = time.monotonic()
    with pytest.raises(StageTimeLimit, match=r"ran longer than 0\.5 s; .*OCTAVO_STAGE_TIME_SECONDS"):
        run("sleep", StageLimits(0.5, 2048 * MIB))
    assert time.monotonic() - started < 10


@linux_only
def test_cancelling_ends_the_child_at_once(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with pytest.raises(JobCancelled, match="was cancelled while it ran"):
        run_in_sandbox(f"{TASKS}:sleep", {"started": str(started)}, limits=ROOM, is_cancelled=started.exists)
    wait_until(lambda: is_gone(int(started.read_text())))


def test_a_task_cancelled_before_it_starts_never_starts(tmp_path: Path) -> None:
    started = tmp_path / "started"
    with pytest.raises(JobCancelled, match="before it started"):
        run_in_sandbox(f"{TASKS}:sleep", {"started": str(started)}, limits=ROOM, is_cancelled=lambda: True)
    assert not started.exists()


def test_an_error_in_the_progress_listener_ends_the_child_and_comes_through() -> None:
    def refuse(fraction: float) -> None:
        raise ConnectionError("the database is away")

    with pytest.raises(ConnectionError, match="the database is away"):
        run_in_sandbox(f"{TASKS}:add", {"left": 2, "right": 3}, limits=ROOM, on_progress=refuse)


@linux_only
def test_what_the_child_started_ends_with_it() -> None:
    pid = run("start_a_grandchild")["pid"]
    wait_until(lambda: is_gone(pid))


@linux_only
def test_a_child_inherits_no_sockets_no_secrets_and_leads_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_DATABASE_URL", "postgresql://user:secret@host/db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)):
        seen = run("look_around")
    assert seen["sockets"] == []
    assert "secret" not in json.dumps(seen["environment"])
    assert seen["is_group_leader"]


def test_a_child_computes_with_the_devices_and_kernels_that_its_parent_has(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_MPS_PIPE_DIRECTORY": "/run/mps",
        "CUDA_MPS_LOG_DIRECTORY": "/var/log/mps",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = run("look_around")["environment"]
    assert {name: seen.get(name) for name in given} == given


def test_the_sandbox_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, service.quantization.sandbox.parent;"
        "print([m for m in ('onnx', 'onnxruntime', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"


def test_endless_output_neither_blocks_the_child_nor_fills_memory() -> None:
    assert run("chatter") == {"done": True}


def test_many_threads_can_each_run_a_child() -> None:
    results: list[int] = []

    def work(number: int) -> None:
        result = run_in_sandbox(f"{TASKS}:add", {"left": number, "right": 1}, limits=ROOM)
        results.append(result["sum"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(results) == [1, 2, 3]


@linux_only
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = (
        "from service.domain.limits import StageLimits\n"
        "from service.quantization.sandbox.parent import run_in_sandbox\n"
        f"run_in_sandbox('{TASKS}:sleep', {{'started': {str(started)!r}}}, limits=StageLimits(60, 2**31))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: started.exists() and bool(started.read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=10)
    wait_until(lambda: is_gone(int(started.read_text())))
