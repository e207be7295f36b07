"""Gathers the memory of engines in huge pages, of which the processor can find thousands of times as much at once."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# Of Linux 6.1 and later; older kernels refuse the word. Unlike MADV_HUGEPAGE it leaves later allocations alone, which
# would be cleared 2 MiB at a time.
_MADV_COLLAPSE = 25
_SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 63
# Where less of a huge page is in use, what it would take in addition is worth more than its speed.
_IN_USE = 7 / 8
# A host whose memory is in small pieces searches each time anew, for milliseconds.
_REFUSALS = 8


def gather_in_huge_pages() -> int:
    """Moves this process's own memory, as it is, into huge pages where it fills them; returns the bytes in these.

    Blocks for a second or two per GiB, while other threads go on. 0 where the kernel has none to give.
    Source: madvise(2), MADV_COLLAPSE.
    """
    try:
        size = int(_SIZE.read_text())
        starts = list(_filled(size))
    except OSError:
        return 0
    gathered = refused = 0
    for start in starts:
        error = _collapse(start, size)
        gathered += size * (error == 0)
        refused += error == errno.ENOMEM
        if refused == _REFUSALS:
            break
    return gathered


def _collapse(start: int, size: int) -> int:
    """0, or the error's number; the memory is as it was either way."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    if madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_COLLAPSE) == 0:
        return 0
    return ctypes.get_errno()


def _filled(size: int) -> Iterator[int]:
    """Where a huge page may begin, of those that are mostly in use."""
    pages = size // _PAGE
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for first, last in _own_memory():
            begin = -(-first // size) * size
            count = (last - begin) // size
            if count <= 0:
                continue
            words = os.pread(pagemap.fileno(), count * pages * 8, begin // _PAGE * 8)
            # Less where the memory went meanwhile.
            held = np.frombuffer(words, np.uint64)[: len(words) // (8 * pages) * pages].reshape(-1, pages) >> _PRESENT
            yield from (begin + size * int(place) for place in np.flatnonzero(held.mean(axis=1) >= _IN_USE))


def _own_memory() -> Iterator[tuple[int, int]]:
    """Begin and end of what can be written and belongs to no file; stacks are left out. proc_pid_maps(5)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        extent, rights, _, _, inode, *name = line.split(maxsplit=5)
        if inode == "0" and rights.startswith("rw") and not (name and name[0].startswith(("[stack", "[v"))):
            first, _, last = extent.partition("-")
            yield int(first, 16), int(last, 16)
