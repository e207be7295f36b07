"""CUDA graphs: work recorded from a stream once and launched as a whole. Through the driver's own library by ctypes,
because pycuda 2026.1 has no call for them. A ctypes call lets other threads run meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from service.errors import EngineFailed

_LIBRARY = "libcuda.so.1"
# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: what other threads allocate meanwhile does not end this capture. What waits for
# the whole device does: see `loading`.
_THREAD_LOCAL = 1


class CudaGraphs:
    """Captures and launches; streams are handles. Every call raises EngineFailed with the driver's error number."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def capture(self, stream: int, enqueue: Callable[[], bool]) -> int:
        """A launchable graph of what `enqueue` puts on the stream; the stream ends up usable in any case.

        Nothing is executed. `enqueue` says whether it succeeded.
        """
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
        graph = ctypes.c_void_p()
        try:
            enqueued = enqueue()
        finally:
            # An ended capture, even of a failed one, is what makes the stream usable again.
            ended = self._library.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
        if ended or not enqueued or not graph.value:
            if graph.value:
                self._library.cuGraphDestroy(graph)
            raise EngineFailed(f"the work cannot be captured as a CUDA graph (cuStreamEndCapture gave {ended})")
        try:
            launchable = ctypes.c_void_p()
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(launchable), graph, ctypes.c_ulonglong(0))
        finally:
            self._library.cuGraphDestroy(graph)
        return int(launchable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result:
            raise EngineFailed(f"{name} gave CUDA error {result}")


@lru_cache(maxsize=1)
def cuda_graphs() -> CudaGraphs | None:
    """None where the driver's library, or a call of it, is missing: engines then run without graphs."""
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name in ("cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return CudaGraphs(library)
