"""Memory for large tensors that arrive: those of one size adjoin, so that a batch of them needs no copy."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import ref

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Tensors begin where the widest loads of a processor like them to.
ALIGNMENT = 64
# Joining smaller ones costs less than finding out that they adjoin; larger ones are few.
_MIN_BYTES = 64 * 1024
_BLOCK_BYTES = 8 * 1024 * 1024
_FIRST_TENSORS = 4
# Of so many sizes the last block is known that is not kept.
_SIZES = 4
# Blocks beyond go with the last tensor in them.
_KEPT_BLOCKS = 8
_TAKEN, _FREE = 0, 1


class TensorSpace:
    """Gives to an event loop only; what it gave may be let go of in any thread.

    A size's first block holds 4 tensors, each next one twice as many, at last 8 MiB. Blocks of 8 MiB are filled again
    once all that was in them is gone: fresh memory is cleared by the kernel while the loop waits.
    """

    def __init__(self) -> None:
        self._current: dict[int, _Block] = {}
        self._kept: list[_Block] = []

    def take(self, size: int) -> memoryview:
        """`size` bytes (`is_shared`) that nobody else has: behind those given last, while a block lasts."""
        block = self._current.get(size)
        taken = None if block is None else block.take()
        if taken is None:
            self._current[size] = block = self._next_block(size, block)
            taken = block.take()
            assert taken is not None
        return taken

    def _next_block(self, size: int, before: _Block | None) -> _Block:
        for block in self._kept:
            if block.size == size and block.is_free:
                return block
        loose = [other for other, last in self._current.items() if other != size and last not in self._kept]
        if len(loose) >= _SIZES:
            self._forget(loose)
        full = _BLOCK_BYTES // size
        count = min(_FIRST_TENSORS if before is None else 2 * before.count, full)
        if count < full:
            return _Block(size, np.empty(count * size + ALIGNMENT, np.uint8))
        block = _Block(size, _pages(count * size + ALIGNMENT))
        self._keep(block)
        return block

    def _keep(self, block: _Block) -> None:
        if len(self._kept) >= _KEPT_BLOCKS:
            # Of another size: a free one of this size would have been taken.
            idle = next((kept for kept in self._kept if kept.is_free), None)
            if idle is None:
                return
            self._kept.remove(idle)
            if self._current.get(idle.size) is idle:
                self._forget([idle.size])
        self._kept.append(block)

    def _forget(self, sizes: Iterable[int]) -> None:
        for size in sizes:
            del self._current[size]


class _Block:
    """Places for tensors of `size` bytes, one behind the other."""

    def __init__(self, size: int, memory: Bytes) -> None:
        self._memory = _from_aligned(memory)
        self.size = size
        self.count = len(self._memory) // size
        self._places = bytearray([_FREE]) * self.count
        self._last = 0
        self._watches: dict[int, ref[Bytes]] = {}

    @property
    def is_free(self) -> bool:
        return _TAKEN not in self._places

    def take(self) -> memoryview | None:
        """The place behind the last one given, or that one where it is free again; None at the block's end."""
        places = self._places
        if self.is_free:
            place = 0
        elif places[self._last] == _FREE:
            # A request that was refused leaves no hole.
            place = self._last
        else:
            place = places.find(_FREE, self._last + 1)
            if place < 0:
                return None
        places[place] = _TAKEN
        self._last = place
        tensor = self._memory[place * self.size : (place + 1) * self.size]
        # Every view of the tensor keeps this array alive.
        self._watches[place] = ref(tensor, lambda _: places.__setitem__(place, _FREE))
        return tensor.data


def is_shared(size: int) -> bool:
    """Whether tensors of `size` bytes adjoin."""
    return _MIN_BYTES <= size <= _BLOCK_BYTES // 4


def aligned(size: int) -> memoryview:
    """`size` fresh bytes, not cleared."""
    return _from_aligned(np.empty(size + ALIGNMENT, np.uint8)).data[:size]


def _from_aligned(memory: Bytes) -> Bytes:
    return memory[-memory.__array_interface__["data"][0] % ALIGNMENT :]


def _pages(size: int) -> Bytes:
    """`size` fresh bytes of small pages: a large one is cleared whole at its first byte."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A kernel built without large pages refuses this word.
        with suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8)
