"""Watches a worker's children from outside: the highest resident memory of each, in the order in which they came."""

from __future__ import annotations

import threading
from types import TracebackType

from benchmarks.process import children, peak_bytes

_EVERY_SECONDS = 0.01


class StageMemory:
    """A thread that samples while the context is open.

    Each sample reads the kernel's own peak of a child's life so far: only its last hundredth of a second can be missed.
    """

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.children: dict[int, int] = {}
        self.worker = 0

    def __enter__(self) -> StageMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            try:
                self.worker = peak_bytes(self._worker) or self.worker
                found = children(self._worker)
            except FileNotFoundError:
                continue
            for pid in found:
                self._look(pid)

    def _look(self, pid: int) -> None:
        try:
            # A child that has just ended keeps its entry without memory until it is reaped, and one that has just been
            # forked still has this process's: the last that it had is its own.
            self.children[pid] = peak_bytes(pid) or self.children.get(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return
