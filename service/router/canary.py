"""Which requests the canary answers: its exact share, spread evenly instead of drawn."""

from __future__ import annotations

# Steps of the golden ratio fill the unit interval evenly from any start: no run of the canary, no long gap.
_STEP = 0.6180339887498949


class CanaryShare:
    """Says yes for `weight` percent of the calls; over any 100 calls it is off by two at most."""

    __slots__ = ("_phase", "_share")

    def __init__(self, weight: int) -> None:
        self._share = weight / 100
        self._phase = 0.5

    def takes_next(self) -> bool:
        self._phase = (self._phase + _STEP) % 1.0
        return self._phase < self._share
