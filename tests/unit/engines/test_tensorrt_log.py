"""What is promised of TensorRT's words: one logger for the whole process, and each piece of work hears its own."""

from __future__ import annotations

import logging
import subprocess
import sys
from enum import Enum
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

from service.engines.tensorrt_log import RuntimeLog, listening, process_logger
from tests.unit.engines.fake_gpu import FakeGpu, gpu

__all__ = ["gpu"]


class Severity(Enum):
    ERROR = 1
    WARNING = 2
    VERBOSE = 4


@pytest.fixture
def trt() -> Any:
    module = ModuleType("trt")
    module.ILogger = type("ILogger", (), {})  # type: ignore[attr-defined]
    return module


def test_every_engine_is_given_the_same_logger_and_it_outlives_them(gpu: FakeGpu) -> None:
    for _ in range(2):
        gpu.load().close()
    assert gpu.trt.loggers == [process_logger(gpu.trt)]


def test_work_hears_what_is_said_in_its_thread_and_not_what_is_said_of_other_work(trt: Any) -> None:
    mine, others = RuntimeLog(), RuntimeLog()

    def elsewhere() -> None:
        with listening(others.take):
            process_logger(trt).log(Severity.ERROR, "theirs")

    with listening(mine.take):
        thread = Thread(target=elsewhere)
        thread.start()
        thread.join()
        process_logger(trt).log(Severity.ERROR, "mine")
    process_logger(trt).log(Severity.ERROR, "nobody's")
    assert (mine.words(), others.words()) == ("mine", "theirs")


def test_what_a_thread_of_tensorrts_own_says_is_heard_by_who_waits(trt: Any) -> None:
    waiting = RuntimeLog()
    with listening(waiting.take):
        thread = Thread(target=process_logger(trt).log, args=(Severity.ERROR, "a kernel does not compile"))
        thread.start()
        thread.join()
    assert waiting.words() == "a kernel does not compile"


def test_what_nobody_waits_for_is_in_the_servers_log(trt: Any, caplog: pytest.LogCaptureFixture) -> None:
    for severity in Severity:
        process_logger(trt).log(severity, f"a word of {severity.name}")
    told = [(record.levelno, record.reason) for record in caplog.records]  # type: ignore[attr-defined]
    assert told == [(logging.ERROR, "a word of ERROR"), (logging.WARNING, "a word of WARNING")]


_DROPPED = """
import gc
import tensorrt_rtx_bindings as trt
from service.engines.tensorrt_bindings import deserialized
from service.engines.tensorrt_log import process_logger
from service.errors import EngineFailed
first = trt.Runtime(process_logger(trt))
second = trt.Runtime(process_logger(trt))
del first
gc.collect()
junk = [bytearray(size) for size in range(1, 2000)]
try:
    deserialized(trt, b"not an engine" * 100, "engine.plan")
except EngineFailed as error:
    print(error)
trt.get_plugin_registry().load_library("/nowhere.so")
"""


def test_tensorrt_still_has_its_logger_when_the_first_engine_is_gone() -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    done = subprocess.run([sys.executable, "-c", _DROPPED], capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot load engine.plan" in done.stdout) == (0, True), done.stderr[-2000:]
