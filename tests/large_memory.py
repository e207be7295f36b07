"""Memory of a test's own, large enough for huge pages, and what the kernel says of it."""

from __future__ import annotations

import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engines import huge_pages

MIB = 2**20
HUGE = 2 * MIB
BYTES = 16 * MIB
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def fresh_memory() -> Bytes:
    """16 MiB that nothing was written to yet, from where a huge page may begin on."""
    pages = mmap.mmap(-1, BYTES + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Told apart from neighbours, with which the kernel would merge it.
    pages.madvise(mmap.MADV_DONTDUMP)
    memory = np.frombuffer(pages, np.uint8)
    return memory[-memory.__array_interface__["data"][0] % HUGE :][:BYTES]


def kernel_bytes(memory: Bytes, figure: str) -> int:
    """A figure of /proc/self/smaps, in bytes, for the mapping that holds `memory`."""
    at = memory.__array_interface__["data"][0]
    for mapping in re.split(rb"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_bytes(), flags=re.M)[1:]:
        first, last = (int(place, 16) for place in mapping.split(maxsplit=1)[0].split(b"-"))
        found = re.search(rf"^{figure}: +(\d+) kB".encode(), mapping, re.M)
        if first <= at < last and found:
            return int(found[1]) * 1024
    raise AssertionError("no mapping holds the memory")


def _collapses() -> bool:
    """Whether this kernel moves memory into huge pages of 2 MiB, and only when it is asked to."""
    if not huge_pages._SIZE.exists() or int(huge_pages._SIZE.read_text()) != HUGE:
        return False
    memory = fresh_memory()
    memory[:] = 1
    alone = kernel_bytes(memory, "AnonHugePages") == 0
    return alone and huge_pages._collapse(memory.__array_interface__["data"][0], HUGE) == 0


needs_huge_pages = pytest.mark.skipif(not _collapses(), reason="the kernel moves no memory into huge pages")
