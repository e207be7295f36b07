"""Waits for idle cores before a measurement, and tells afterwards how often it waited in vain."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.process import host_ticks

# Idle servers and an idle desktop stay below this share of all cores.
_BUSY_SHARE = 0.08
_LOOK_SECONDS = 0.5


@dataclass
class Quiet:
    """`patience_seconds` bounds the wait before each single measurement."""

    patience_seconds: float
    waits: int = 0
    in_vain: int = 0

    def wait(self) -> None:
        """Returns when the cores were nearly idle for half a second, or when patience has run out."""
        self.waits += 1
        deadline = time.monotonic() + self.patience_seconds
        while _busy_share() > _BUSY_SHARE:
            if time.monotonic() > deadline:
                self.in_vain += 1
                return

    def note(self) -> str:
        """For the report: whether others were at work when measurements began."""
        return f"Of {self.waits} measurements, {self.in_vain} began while other processes kept the cores busy."


def _busy_share() -> float:
    busy, total = host_ticks()
    time.sleep(_LOOK_SECONDS)
    later_busy, later_total = host_ticks()
    return (later_busy - busy) / max(1, later_total - total)
