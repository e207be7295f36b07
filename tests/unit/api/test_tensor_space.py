"""Memory for large tensors that arrive."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from service.api.tensor_space import TensorSpace, is_shared


def test_memory_for_tensors_is_never_given_twice() -> None:
    space = TensorSpace()
    sizes = (65_536, 100_000, 2_000_000, 70_000, 80_000)
    assert all(is_shared(size) for size in sizes)
    taken = [space.take(size) for _ in range(50) for size in sizes]
    spans = sorted((np.frombuffer(memory, np.uint8).ctypes.data, len(memory)) for memory in taken)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))
