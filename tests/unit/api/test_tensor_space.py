"""Memory for large tensors that arrive."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from service.api.tensor_space import TensorSpace, is_shared


def address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def test_memory_for_tensors_is_never_given_twice() -> None:
    space = TensorSpace()
    sizes = (65_536, 100_000, 2_000_000, 70_000, 80_000)
    assert all(is_shared(size) for size in sizes)
    taken = [space.take(size) for _ in range(50) for size in sizes]
    spans = sorted((address(memory), len(memory)) for memory in taken)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))


def test_a_block_that_ends_leaves_those_of_other_sizes() -> None:
    space, sizes = TensorSpace(), (65_536, 70_000, 80_000, 100_000)
    first = {size: space.take(size) for size in sizes}
    for _ in range(20):
        space.take(65_536)
    for size in sizes[1:]:
        assert address(space.take(size)) == address(first[size]) + size


def test_sizes_that_do_not_come_again_ask_for_few_times_their_memory() -> None:
    space = TensorSpace()
    taken = [space.take(65_536 + 8 * number) for number in range(100)]
    asked = sum(memoryview(memory.obj).nbytes for memory in taken)
    assert asked < 5 * sum(map(len, taken))
