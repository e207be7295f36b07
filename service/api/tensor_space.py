"""Memory for large tensors that arrive: those of one size adjoin, so that a batch of them needs no copy."""

from __future__ import annotations

import numpy as np

# Tensors begin where the widest loads of a processor like them to.
ALIGNMENT = 64
# Joining smaller ones costs less than finding out that they adjoin; larger ones are few.
_MIN_BYTES = 64 * 1024
_BLOCK_BYTES = 8 * 1024 * 1024
_SIZES = 4


class TensorSpace:
    """Not thread-safe: an event loop's. A block of 8 MiB lives as long as any of the tensors in it."""

    def __init__(self) -> None:
        self._left: dict[int, memoryview] = {}

    def take(self, size: int) -> memoryview:
        """`size` bytes (`is_shared`) that nobody else has: behind those given last, while a block lasts."""
        left = self._left.get(size)
        if left is None or len(left) < size:
            if len(self._left) >= _SIZES:
                self._left.clear()
            left = aligned(_BLOCK_BYTES // size * size)
        self._left[size] = left[size:]
        return left[:size]


def is_shared(size: int) -> bool:
    """Whether tensors of `size` bytes adjoin."""
    return _MIN_BYTES <= size <= _BLOCK_BYTES // 4


def aligned(size: int) -> memoryview:
    """`size` fresh bytes, not cleared."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory.data[start : start + size]
