"""Gathers the memory of engines in huge pages, of which the processor finds hundreds of times as much at once."""

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
# Mapped by this process alone: neither the zero page nor what a parent still shares, which would become memory anew.
_OWN_BIT = 56
# Where less of a huge page is in use, what it would take in addition is worth more than its speed.
_IN_USE = 7 / 8
# A host whose memory is in small pieces, or a full container, searches each time anew, for milliseconds.
_REFUSALS = 8
_NO_ROOM = (errno.ENOMEM, errno.EBUSY)
# Huge pages that are looked at together.
_AT_ONCE = 512


def gather_in_huge_pages() -> int:
    """Moves this process's own memory, as it is, into huge pages where it fills them; returns the bytes in these.

    Blocks for one to three seconds per GiB; a thread that allocates meanwhile waits for some milliseconds at times. 0
    where the kernel has none to give. Sources: madvise(2), MADV_COLLAPSE; proc_pid_pagemap(5).
    """
    try:
        return _gather(int(_SIZE.read_text()))
    except (OSError, ValueError, MemoryError):
        return 0


def _gather(size: int) -> int:
    gathered = refused = 0
    for start in _filled(size):
        error = _collapse(start, size)
        gathered += size * (error == 0)
        # One that went meanwhile is refused with ENOMEM too.
        refused = refused + 1 if error in _NO_ROOM else 0
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
            for start in range(begin, last - size + 1, size * _AT_ONCE):
                count = min(_AT_ONCE, (last - start) // size)
                words = np.frombuffer(os.pread(pagemap.fileno(), count * pages * 8, start // _PAGE * 8), np.uint64)
                # Fewer where the memory went meanwhile.
                own = (words[: len(words) // pages * pages].reshape(-1, pages) >> _OWN_BIT) & 1
                yield from (start + size * int(place) for place in np.flatnonzero(own.mean(axis=1) >= _IN_USE))


def _own_memory() -> Iterator[tuple[int, int]]:
    """Begin and end of what can be written, belongs to no file and is not shared. proc_pid_maps(5)."""
    # A file's name may be of any bytes but a line's end.
    for line in Path("/proc/self/maps").read_bytes().split(b"\n")[:-1]:
        extent, rights, _, _, inode = line.split(maxsplit=5)[:5]
        if inode == b"0" and rights == b"rw-p":
            first, _, last = extent.partition(b"-")
            yield int(first, 16), int(last, 16)
