"""Memory for large tensors that arrive: those of one size adjoin, so that a batch of them needs no copy."""

from __future__ import annotations

import numpy as np

# Tensors begin where the widest loads of a processor like them to.
ALIGNMENT = 64
# Joining smaller ones costs less than finding out that they adjoin; larger ones are few.
_MIN_BYTES = 64 * 1024
_BLOCK_BYTES = 8 * 1024 * 1024
_FIRST_TENSORS = 4
_SIZES = 4


class TensorSpace:
    """Not thread-safe: an event loop's. A block of 4 tensors, at last of 8 MiB, lives as long as any of them."""

    def __init__(self) -> None:
        # Of each size what its block has left, and how many tensors the next one holds.
        self._left: dict[int, memoryview] = {}
        self._counts: dict[int, int] = {}

    def take(self, size: int) -> memoryview:
        """`size` bytes (`is_shared`) that nobody else has: behind those given last, while a block lasts."""
        left = self._left.get(size)
        if left is None and len(self._left) >= _SIZES:
            self._left.clear()
            self._counts.clear()
        if not left:
            count = min(self._counts.get(size, _FIRST_TENSORS), _BLOCK_BYTES // size)
            self._counts[size] = 2 * count
            left = aligned(count * size)
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
