"""Memory for large tensors that arrive."""

from __future__ import annotations

import errno
import mmap
import random
from itertools import pairwise
from threading import Thread
from typing import Any
from weakref import ref

import numpy as np
import pytest

from service.api.tensor_space import TensorSpace, is_shared

# Thirteen to a block of 8 MiB.
PHOTO = 602_112
LARGEST = 2 * 1024 * 1024


def address(memory: memoryview) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def block_of(memory: memoryview) -> np.ndarray[Any, Any]:
    """The array that the memory is a part of, with all that was allocated together."""
    array: Any = memory.obj
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array, np.ndarray)
    return array


def test_memory_for_tensors_is_never_given_twice() -> None:
    space = TensorSpace()
    sizes = (65_536, 100_000, 2_000_000, 70_000, 80_000)
    assert all(is_shared(size) for size in sizes)
    taken = [space.take(size) for _ in range(50) for size in sizes]
    spans = sorted((address(memory), len(memory)) for memory in taken)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))


def test_what_is_in_use_keeps_its_bytes_whatever_comes_and_goes() -> None:
    space, chance = TensorSpace(), random.Random(4)
    used: list[tuple[np.ndarray[Any, Any], int]] = []
    for number in range(3000):
        view = np.frombuffer(space.take(chance.choice((PHOTO, LARGEST, 400_000))), np.int32)[::1024].reshape(1, -1)
        view[:] = number
        used.append((view, number))
        del view
        while len(used) > chance.choice((0, 5, 40)):
            view, said = used.pop(chance.randrange(len(used)))
            assert (view == said).all()


def test_a_block_that_ends_leaves_those_of_other_sizes() -> None:
    space, sizes = TensorSpace(), (65_536, 70_000, 80_000, 100_000)
    first = {size: space.take(size) for size in sizes}
    taken = [space.take(65_536) for _ in range(20)]
    for size in sizes[1:]:
        assert address(space.take(size)) == address(first[size]) + size
    assert len(taken) == 20


def test_sizes_that_do_not_come_again_ask_for_few_times_their_memory() -> None:
    space = TensorSpace()
    taken = [space.take(65_536 + 8 * number) for number in range(100)]
    asked = sum(block_of(memory).nbytes for memory in taken)
    assert asked < 5 * sum(map(len, taken))


def test_a_tensor_that_is_let_go_of_at_once_leaves_no_hole() -> None:
    space = TensorSpace()
    kept = space.take(PHOTO)
    seen = {address(space.take(PHOTO)) for _ in range(3)}
    assert seen == {address(kept) + PHOTO}


def test_one_tensor_at_a_time_always_lies_in_one_place() -> None:
    space = TensorSpace()
    assert len({address(space.take(PHOTO)) for _ in range(100)}) == 1


def test_memory_is_used_again_once_all_of_a_block_is_gone_in_whatever_thread() -> None:
    space = TensorSpace()
    for _ in range(3):
        taken = [space.take(LARGEST) for _ in range(20)]
        blocks = {address(block_of(memory)[:1].data) for memory in taken}
        letting_go = Thread(target=taken.clear)
        letting_go.start()
        letting_go.join()
        # What is allocated meanwhile lies elsewhere.
        space.take(PHOTO)
        again = [space.take(LARGEST) for _ in range(20)]
        assert {address(block_of(memory)[:1].data) for memory in again} == blocks
        del again


def test_after_a_peak_64_mib_are_kept_and_given_to_other_sizes_when_they_come() -> None:
    space = TensorSpace()
    taken = [space.take(LARGEST) for _ in range(80)]
    blocks = list({id(block): ref(block) for block in map(block_of, taken)}.values())
    assert len(blocks) == 20
    taken.clear()
    # One more that is not kept was given last.
    assert 8 <= sum(block() is not None for block in blocks) <= 9
    others = [space.take(1_900_000) for _ in range(40)]
    assert sum(block() is not None for block in blocks) <= 1
    assert len(others) == 40


def test_after_peaks_of_many_sizes_no_more_is_kept_than_64_mib_and_what_was_given_from_last() -> None:
    space, sizes = TensorSpace(), [1_900_000 + 64 * number for number in range(8)]
    blocks: dict[int, ref[np.ndarray[Any, Any]]] = {}
    for count in (1, 1, 5, 40, 1):
        for size in sizes:
            taken = [space.take(size) for _ in range(count)]
            blocks |= {id(block): ref(block) for block in map(block_of, taken)}
            del taken
    assert sum(block() is not None for block in blocks.values()) <= 12


def test_memory_is_given_where_the_kernel_knows_no_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("service.api.tensor_space.mmap.mmap", Plain)
    assert len(TensorSpace().take(LARGEST)) == LARGEST
