"""Stands in for TensorRT's runtime on a FakeDriver, to prove what engines do with buffers, and nothing of TensorRT.

Its one network takes `x` FP32 [rows, n] and gives `y`, each value doubled, and in data-dependent plans also `found`
INT64 [k], the places in a flattened `x` that are not zero.
"""

from __future__ import annotations

import json
import math
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.fake_cuda import FakeDriver

WIDTH = 4
ACTIVATION_BYTES = 1000


def plan(most_rows: int = 8, found: bool = False, profiles: int = 1, stripped: tuple[str, ...] = ()) -> bytes:
    """A serialized engine; profile k takes up to most_rows * 2^k rows, and `stripped` names the weights it lacks."""
    most = [most_rows << k for k in range(profiles)]
    return json.dumps({"most": most, "found": found, "stripped": stripped}).encode()


def graph_of(*names: str) -> bytes:
    """An ONNX graph as the fake refitter reads it: the names of its weights."""
    return json.dumps(names).encode()


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class _Mode(Enum):
    INPUT = 1
    OUTPUT = 2


class _Place(Enum):
    DEVICE = 0
    HOST = 1


class _Logger:
    Severity = Severity

    def log(self, severity: object, message: str) -> None:
        raise NotImplementedError


class _Allocator:
    pass


class FakeTensorRt:
    """The module. `contexts` counts those alive; `capturable` False makes an enqueue under capture fail."""

    __version__ = "11.4.0.106"
    ILogger = _Logger
    IOutputAllocator = _Allocator
    TensorLocation = _Place
    TensorIOMode = _Mode
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    ProfilingVerbosity = SimpleNamespace(NONE=1, DETAILED=2)

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.contexts = 0
        self.capturable = True
        self.enqueues = True
        self.refits = True
        self.allocators_kept = 0
        # All that were ever handed over: TensorRT keeps to the first, and does not keep it alive.
        self.loggers: list[_Logger] = []

    def _take_logger(self, logger: _Logger) -> None:
        if logger not in self.loggers:
            self.loggers.append(logger)

    def Refitter(self, engine: FakeTrtEngine, logger: _Logger) -> _Refitter:  # noqa: N802 (TensorRT's name)
        self._take_logger(logger)
        return _Refitter(engine)

    def OnnxParserRefitter(self, refitter: _Refitter, logger: _Logger) -> _ParserRefitter:  # noqa: N802
        return _ParserRefitter(refitter, logger)

    def Runtime(self, logger: _Logger) -> Any:  # noqa: N802 (TensorRT's name)
        self._take_logger(logger)
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self._deserialize(logger, data))

    def _deserialize(self, logger: _Logger, data: bytes) -> FakeTrtEngine | None:
        try:
            return FakeTrtEngine(self, **json.loads(data))
        except ValueError:
            logger.log(Severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None


class _Refitter:
    """What is set here reaches the engine with `refit_cuda_engine` alone, as in TensorRT."""

    def __init__(self, engine: FakeTrtEngine) -> None:
        self.engine = engine
        self.given: set[str] = set()

    def get_missing_weights(self) -> list[str]:
        return sorted(self.engine.stripped - self.given)

    def refit_cuda_engine(self) -> bool:
        self.engine.trt.driver.check("refit")
        if self.engine.trt.refits:
            self.engine.stripped -= self.given
        return self.engine.trt.refits


class _ParserRefitter:
    def __init__(self, refitter: _Refitter, logger: _Logger) -> None:
        self._refitter, self._logger = refitter, logger

    def refit_from_bytes(self, graph: bytes) -> bool:
        try:
            self._refitter.given |= set(json.loads(graph))
        except ValueError:
            self._logger.log(Severity.ERROR, "Failed to parse ONNX model from byte array.")
            return False
        return True


class FakeTrtEngine:
    def __init__(self, trt: FakeTensorRt, most: list[int], found: bool, stripped: list[str]) -> None:
        self.trt = trt
        self.stripped = set(stripped)
        self.most = most
        self.names = ["x", "y", "found"] if found else ["x", "y"]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(most)
        self.device_memory_size_v2 = ACTIVATION_BYTES

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name="INT64" if name == "found" else "FLOAT")

    def get_tensor_location(self, _name: str) -> _Place:
        return _Place.DEVICE

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name == "x" else _Mode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == "found" else (-1, WIDTH)

    def get_tensor_profile_shape(self, _name: str, index: int) -> list[tuple[int, ...]]:
        return [(1, WIDTH), (1, WIDTH), (self.most[index], WIDTH)]

    def create_execution_context(self, _strategy: Any) -> FakeTrtContext | None:
        if self.stripped:
            return None
        return FakeTrtContext(self)


class FakeTrtContext:
    def __init__(self, engine: FakeTrtEngine) -> None:
        self._engine, self._trt, self._driver = engine, engine.trt, engine.trt.driver
        self._trt.contexts += 1
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}
        self._allocator: Any = None
        self.profile = -1
        # That of the build, which is DETAILED.
        self.nvtx_verbosity = 2

    def __del__(self) -> None:
        self._trt.contexts -= 1

    def set_device_memory(self, pointer: int, size_bytes: int) -> None:
        assert len(self._driver.memory[pointer]) >= size_bytes >= ACTIVATION_BYTES

    def set_optimization_profile_async(self, profile: int, _stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return shape[0] <= self._engine.most[self.profile]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1,) if name == "found" else self._shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def set_output_allocator(self, _name: str, allocator: Any) -> None:
        # Each call keeps the allocator alive once more.
        self._trt.allocators_kept += 1
        self._allocator = allocator

    def execute_async_v3(self, handle: int) -> bool:
        stream = self._driver.stream_of(handle)
        assert self.nvtx_verbosity == self._trt.ProfilingVerbosity.NONE, "every enqueue tells profilers of its layers"
        if not self._trt.enqueues or (stream.captured is not None and not self._trt.capturable):
            return False
        source, target, shape = self._addresses["x"], self._addresses["y"], self._shape
        stream.enqueue("compute", lambda: self._driver.write(target, self._doubled(source, shape)))
        return "found" not in self._engine.names or self._find(stream, source, shape)

    def _doubled(self, address: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return (2 * self._values(address, shape)).view(np.uint8)

    def _values(self, address: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return self._driver.read(address, 4 * math.prod(shape)).view(np.float32)

    def _find(self, stream: Any, source: int, shape: tuple[int, ...]) -> bool:
        """TensorRT waits for the count too, inside the enqueue."""
        stream.synchronize()
        found = np.flatnonzero(self._values(source, shape)).astype(np.int64)
        address = self._allocator.reallocate_output_async("found", 0, max(1, found.nbytes), 256, stream.handle)
        if not address:
            return False
        self._allocator.notify_shape("found", found.shape)
        if found.size:
            stream.enqueue("compute", lambda: self._driver.write(address, found.view(np.uint8)))
        return True
