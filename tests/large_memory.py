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
BYTES = 16 * MIB
Bytes = np.ndarray[Any, np.dtype[np.uint8]]

needs_huge_pages = pytest.mark.skipif(not huge_pages._SIZE.exists(), reason="the kernel has no huge pages")


def fresh_memory() -> Bytes:
    """16 MiB that nothing was written to yet, and that ask for nothing."""
    return np.frombuffer(mmap.mmap(-1, BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def kernel_bytes(memory: Bytes, figure: str) -> int:
    """A figure of /proc/self/smaps, in bytes, for the mapping that holds `memory`."""
    at = memory.__array_interface__["data"][0]
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)[1:]:
        first, last = (int(place, 16) for place in mapping.split(maxsplit=1)[0].split("-"))
        found = re.search(rf"^{figure}: +(\d+) kB", mapping, re.M)
        if first <= at < last and found:
            return int(found[1]) * 1024
    raise AssertionError("no mapping holds the memory")
