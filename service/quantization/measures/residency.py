"""How much memory a loaded engine holds: the growth of this process's resident set while it loads and runs once."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

from service.engines.engine import Engine

HOW = "growth of resident memory while loading and running one batch, in a process that had loaded the runtime before"


def loaded_with_growth(load: Callable[[], Engine], run: Callable[[Engine], object]) -> tuple[Engine, int | None]:
    """The engine and the bytes that it added, or None where the system does not tell. Closes it where `run` raises."""
    before = resident_bytes()
    engine = load()
    try:
        run(engine)
    except BaseException:
        engine.close()
        raise
    after = resident_bytes()
    return engine, None if before is None or after is None else max(0, after - before)


def resident_bytes() -> int | None:
    """Of this process; None where the system does not tell.

    Counted once what was freed has gone back to the system, else an earlier engine's leavings hide growth.
    """
    if sys.platform != "linux":
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
