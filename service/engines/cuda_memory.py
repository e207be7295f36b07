"""Device memory, pinned host memory and streams through pycuda: allocated once, grown by doubling, given back.

pycuda's objects know the thread that made them and leak when dropped in another, so all is freed by name, in `active`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import Lock, RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import DeviceFailed, EngineFailed, Unsupported

Bytes = npt.NDArray[np.uint8]
# What TensorRT wants of activation memory; of tensors it wants less.
ALIGNMENT_BYTES = 256
# CU_STREAM_NON_BLOCKING: a copy on the legacy stream, as ONNX Runtime makes them, would wait for all other streams, and
# end what one of them is capturing.
_NON_BLOCKING = 1
# What loads an engine may wait for the whole device, and so may what makes an execution context: while work is captured
# that fails, and ends the capture, in whatever mode it was begun. A capture holds both, and is short; a load is not.
loading = RLock()
capturing = RLock()
# A cache lets threads that come while it is empty make one each, and starting the driver lets others go on meanwhile.
_making = Lock()


class CudaContext:
    """The first GPU's primary context: the one that TensorRT and ONNX Runtime use too. `driver` is pycuda.driver."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        driver.init()
        self._lost = ""
        self._primary = driver.Device(0).retain_primary_context()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the context the calling thread's; every call on memory and streams belongs inside.

        What the driver raises becomes EngineFailed where memory ran out, and DeviceFailed otherwise: after any other
        error of a device this process cannot use it any more (CUDA calls such errors sticky).
        """
        driver = self.driver
        if self._lost:
            raise DeviceFailed(self._lost)
        try:
            self._primary.push()
            try:
                yield
            finally:
                self._pop()
        except driver.MemoryError as error:
            raise EngineFailed(f"the GPU's memory is used up: {error}; deploy fewer engines on it") from error
        except driver.Error as error:
            # The first tells why; what other threads meet from then on follows from it.
            self._lost = self._lost or (
                f"the GPU failed: {error}; this server's engines on it are lost, restart the server to use it again"
            )
            self._detach()
            raise DeviceFailed(self._lost) from error

    def _pop(self) -> None:
        try:
            self._primary.pop()
        except self.driver.Error:
            self._detach()
            raise

    def _detach(self) -> None:
        """Lets what a lost device still holds be dropped anywhere: pycuda leaves alone what is of a detached context.

        Otherwise it would enter the context once more to free it, in a destructor, where a refusal ends the process.
        """
        with suppress(self.driver.Error):
            self._primary.detach()
        # Another thread may have detached it. Left on this one's stack, a context makes pycuda abort the process when
        # the thread ends; asking for the current one takes those off that are detached.
        self._primary.get_current()

    def stream(self) -> Any:
        return self.driver.Stream(_NON_BLOCKING)


def cuda_context() -> CudaContext:
    """The process's only one. Raises Unsupported where pycuda cannot be imported."""
    with _making:
        return _made_context()


@lru_cache(maxsize=1)
def _made_context() -> CudaContext:
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise Unsupported(f"pycuda cannot be imported: {error}; install it with: pip install 'octavo[gpu]'") from error
    return CudaContext(driver)


def free_device_bytes() -> int | None:
    """What nobody holds of the GPU's memory now, or None where it cannot be asked."""
    try:
        context = cuda_context()
        with context.active():
            free, _ = context.driver.mem_get_info()
    except (EngineFailed, Unsupported):
        return None
    return int(free)


class DeviceBuffer:
    """Bytes on the device. `pointer` is 0 until something was reserved, and changes when the buffer grows."""

    def __init__(self, context: CudaContext) -> None:
        self._driver = context.driver
        self._allocation: Any = None
        self.capacity = 0

    @property
    def pointer(self) -> int:
        return int(self._allocation) if self._allocation is not None else 0

    def reserve(self, size_bytes: int) -> bool:
        """Room for `size_bytes`, at least one; whether the buffer moved. Its old content is lost where it did.

        Raises EngineFailed with the need and the free bytes.
        """
        if size_bytes <= self.capacity and self.capacity:
            return False
        wanted = grown(self.capacity, size_bytes)
        # Freed first: the content is of no use, and the two together might not fit.
        self.free()
        self._allocation, self.capacity = self._allocate(wanted, max(1, size_bytes))
        return True

    def _allocate(self, wanted: int, needed: int) -> tuple[Any, int]:
        driver = self._driver
        try:
            return driver.mem_alloc(wanted), wanted
        except driver.MemoryError:
            pass
        try:
            return driver.mem_alloc(needed), needed
        except driver.MemoryError as error:
            free, total = driver.mem_get_info()
            raise EngineFailed(
                f"this batch needs {needed} more bytes of the GPU's memory, of whose {total} bytes {free} are free; "
                "send fewer rows, or deploy fewer engines on it"
            ) from error

    def free(self) -> None:
        if self._allocation is not None:
            allocation, self._allocation, self.capacity = self._allocation, None, 0
            allocation.free()


class PinnedBuffer:
    """Page-locked host bytes, which the device copies from and to while the processor does something else."""

    def __init__(self, context: CudaContext) -> None:
        self._driver = context.driver
        self._bytes: Bytes | None = None

    @property
    def capacity(self) -> int:
        return 0 if self._bytes is None else len(self._bytes)

    def view(self, size_bytes: int) -> Bytes:
        """The first `size_bytes` bytes, grown where they are not enough. No view outlives the next call or `free`."""
        if self._bytes is None or size_bytes > len(self._bytes):
            wanted = grown(self.capacity, size_bytes)
            self.free()
            self._bytes = self._driver.pagelocked_empty(wanted, np.uint8)
        assert self._bytes is not None
        return self._bytes[:size_bytes]

    def free(self) -> None:
        if self._bytes is not None:
            held, self._bytes = self._bytes, None
            held.base.free()  # type: ignore[union-attr]


def grown(capacity_bytes: int, needed_bytes: int) -> int:
    """The next capacity: what is needed, and at least double, so that a slow climb costs few allocations."""
    wanted = max(2 * capacity_bytes, needed_bytes, 1)
    return -(-wanted // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def free_all(free: list[Callable[[], None]], driver: Any) -> int:
    """Frees each, whatever the others do; how many of them the device refused, which a lost device does to all."""
    refused = 0
    for one in free:
        try:
            one()
        except driver.Error:
            refused += 1
    return refused
