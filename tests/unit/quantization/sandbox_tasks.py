"""Tasks that tests run in the sandbox: each does one thing that a heavy stage may do, or may do wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import EngineFailed, InvalidModel
from service.quantization.attempts import attempt
from service.quantization.task import PipelineTask

Progress = Callable[[float], None]


def add(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    for step in range(5):
        report_progress(step / 4)
        time.sleep(0.11)
    print("chatter on stdout that is no result")
    return {"sum": arguments["left"] + arguments["right"]}


def refuse(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    raise InvalidModel("the opset is 99; export the model with opset 7 to 28")


def fail(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    return {"value": arguments["absent"]}


def crash(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    print("about to read address zero", file=sys.stderr, flush=True)
    ctypes.string_at(0)
    return {}


def leave(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    os._exit(3)


def kill_itself(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def allocate(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    kept = [np.ones(16 * 1024 * 1024, np.uint8) for _ in range(arguments["megabytes"] // 16)]
    return {"blocks": len(kept)}


def allocate_natively(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def fail_as_an_engine(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    try:
        raise RuntimeError(arguments["cause"])
    except RuntimeError as error:
        raise EngineFailed(arguments["message"]) from error


def fail_as_a_library(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    raise RuntimeError(arguments["message"])


def sleep(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    if "started" in arguments:
        Path(arguments["started"]).write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def start_a_grandchild(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    return {"pid": grandchild.pid}


def look_around(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    return {
        "sockets": [name for name in os.listdir("/proc/self/fd") if _is_socket(name)],
        "environment": dict(os.environ),
        "is_group_leader": os.getpid() == os.getpgid(0),
        "modules": sorted(sys.modules),
    }


def _is_socket(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except FileNotFoundError:
        return False


def chatter(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    for _ in range(1000):
        print("x" * 4096)
    return {"done": True}


def _refuse() -> None:
    raise EngineFailed("it refuses")


def _run_out_of_memory() -> None:
    raise MemoryError


def _meet_a_bug() -> None:
    raise ZeroDivisionError


WAYS_OUT: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": _run_out_of_memory,
    "bug": _meet_a_bug,
    "hang": signal.pause,
    "work": lambda: time.sleep(3),
    "refuse": _refuse,
}


def try_runtimes(arguments: dict[str, Any], report_progress: Progress) -> dict[str, Any]:
    """Tries each runtime of `runtimes` as a stage would; one of `ways` goes that way out."""
    told: dict[str, Any] = {}
    for runtime in arguments["runtimes"]:
        try:
            with attempt(PipelineTask.from_json(arguments["task"]), runtime):
                WAYS_OUT.get(arguments["ways"].get(runtime, ""), lambda: None)()
                told[runtime] = "ran"
        except EngineFailed as error:
            told[runtime] = str(error)
    return told
