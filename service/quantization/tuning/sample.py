"""Which calibration rows tuning learns from and which ones it is judged on: apart wherever there are enough rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.quantization.data.rows import Feed
from service.quantization.tuning.layer import Array

BLOCK_ROWS = 8
FIT_ROWS = 128
HELD_ROWS = 32
# Of every this many blocks one is held back, while there are enough.
_HELD_EVERY = 4


@dataclass(frozen=True)
class Sample:
    """Blocks of rows by their first row, spread evenly over the calibration rows. The same rows on every run."""

    feed: Feed
    fit: tuple[int, ...]
    held: tuple[int, ...]
    limit: int
    block_rows: int

    @staticmethod
    def of(feed: Feed, limit: int) -> Sample:
        """From the first `limit` rows; both parts are the same rows where there is only one block of them."""
        size = feed.batch_rows(BLOCK_ROWS)
        total = min(limit, len(feed.rows))
        starts = np.arange(0, max(1, total - size + 1), size)
        if len(starts) == 1:
            return Sample(feed, (0,), (0,), total, size)
        held = starts[_HELD_EVERY // 2 :: _HELD_EVERY] if len(starts) >= _HELD_EVERY else starts[-1:]
        fit = np.setdiff1d(starts, held)
        return Sample(feed, _spread(fit, FIT_ROWS // size), _spread(held, HELD_ROWS // size), total, size)

    def fit_batches(self) -> Iterator[dict[str, Array]]:
        return self._taken(self.fit)

    def held_batches(self) -> Iterator[dict[str, Array]]:
        return self._taken(self.held)

    def few_batches(self, rows: int) -> list[dict[str, Array]]:
        """About `rows` of those to learn from."""
        return list(self._taken(_spread(np.asarray(self.fit), rows // self.block_rows)))

    def all_batches(self) -> Iterator[dict[str, Array]]:
        """Every row that calibration saw."""
        for _, _, batch in self.feed.batches(self.limit, self.block_rows):
            yield batch
            self.feed.rows.forget()

    def _taken(self, starts: Sequence[int]) -> Iterator[dict[str, Array]]:
        for start in starts:
            yield self.feed.take(start, self.block_rows)


def _spread(starts: Array, count: int) -> tuple[int, ...]:
    """At most `count` of them, at least one, from first to last."""
    places = np.linspace(0, len(starts) - 1, min(max(1, count), len(starts))).round().astype(np.int64)
    return tuple(int(start) for start in starts[np.unique(places)])
