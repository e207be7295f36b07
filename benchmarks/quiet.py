"""Waits for idle cores before a measurement; tells afterwards how often in vain, and what the host took of them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.process import host_ticks

# Idle servers and an idle desktop stay below this share of all cores.
_BUSY_SHARE = 0.08
_LOOK_SECONDS = 0.5
# Interrupts take less than that; a virtual machine's host that runs somebody else takes more.
_STALL_SECONDS = 0.0005


@dataclass
class Quiet:
    """`patience_seconds` bounds the wait before each single measurement."""

    patience_seconds: float
    waits: int = 0
    in_vain: int = 0
    watched_seconds: float = 0.0
    stalls: list[float] = field(default_factory=list)

    def wait(self) -> None:
        """Returns when the cores were nearly idle for half a second, or when patience has run out.

        Half a second more goes into looking at the clock, for the time that no process of this machine had.
        """
        self.waits += 1
        deadline = time.monotonic() + self.patience_seconds
        while _busy_share() > _BUSY_SHARE:
            if time.monotonic() > deadline:
                self.in_vain += 1
                break
        self._watch_clock()

    def _watch_clock(self) -> None:
        started = before = time.perf_counter()
        while before - started < _LOOK_SECONDS:
            now = time.perf_counter()
            if now - before > _STALL_SECONDS:
                self.stalls.append(now - before)
            before = now
        self.watched_seconds += before - started

    def note(self) -> str:
        """For the report: whether others were at work when measurements began, here or beside this machine."""
        lost = sum(self.stalls) / max(self.watched_seconds, _LOOK_SECONDS)
        return (
            f"Of {self.waits} measurements, {self.in_vain} began while other processes kept the cores busy. A thread "
            f"that only looked at the clock before each lost {lost:.1%} of {self.watched_seconds:.0f} s to them or to "
            f"this machine's host, {max(self.stalls, default=0.0) * 1e3:.1f} ms at most at once."
        )


def _busy_share() -> float:
    busy, total = host_ticks()
    time.sleep(_LOOK_SECONDS)
    later_busy, later_total = host_ticks()
    return (later_busy - busy) / max(1, later_total - total)
