"""How long an engine takes for each batch size, learned from its runs. Knows no deadline; it answers what to expect."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

# Jacobson's estimator as RFC 6298 has it: mean and mean deviation, and four deviations for what is rarely exceeded.
_MEAN_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_DEVIATIONS = 4
# Sizes up to this are told apart; above, eight steps an octave are.
_EXACT_ROWS = 16
_FIRST_DEVIATION = 0.25
_FORGIVEN = 0.9
# What a size that ran is thought to take at least, of its quickest run: an engine that is twice as fast is tried again.
_LEAST = 0.5
# After so many runs those sizes that were not among them go a part of the way along with those that were.
_ROUND = 64
_DRAWN_ALONG = 1 / 4
# One run counts for so many times what was thought to be the longest: a hiccup is no speed, and many of them are.
_SURPRISE = 4.0


class ExecutionTimes:
    """Seconds from handing a batch over to its answers, by rows. Not thread-safe: its owner holds a lock.

    What makes an engine slow or fast, a busy host above all, is the same for every batch size. So a size that runs no
    more, for it is thought to be slow, is corrected by the runs of others.
    """

    __slots__ = (
        "_deviations",
        "_forgiven",
        "_means",
        "_measured",
        "_pace",
        "_profile",
        "_quickest",
        "_ran",
        "_runs",
        "_sizes",
    )

    def __init__(self, measured: Mapping[int, float]) -> None:
        """`measured` are first seconds by rows, as warming up took; with none of them nothing is expected to last."""
        self._means = {_step(rows): seconds for rows, seconds in measured.items()}
        self._deviations = {rows: seconds * _FIRST_DEVIATION for rows, seconds in self._means.items()}
        self._sizes = sorted(self._means)
        # Seconds at pace 1, which is that of warming up.
        self._profile = dict(self._means)
        self._measured = dict(self._means)
        # 0 where a size did not run since.
        self._quickest = dict.fromkeys(self._means, 0.0)
        self._forgiven: set[int] = set()
        self._pace = 1.0
        self._ran: set[int] = set()
        self._runs = 0

    def observe(self, rows: int, seconds: float) -> None:
        """One run. The first of a size that warming up left out becomes its mean; a surprise counts in part."""
        size = _step(rows)
        quickest = self._quickest.get(size)
        if not quickest or seconds < quickest:
            self._know_quickest(size, seconds)
        mean = self._means.get(size)
        # Short of that it is below the bound as well, which takes a while to find.
        if self._sizes and (mean is None or seconds > _SURPRISE * mean):
            seconds = min(seconds, _SURPRISE * self.bound(size))
        if mean is None:
            self._means[size], self._deviations[size] = seconds, seconds * _FIRST_DEVIATION
            self._profile[size] = seconds / self._pace
            self._sizes = sorted(self._means)
            return
        self._ran.add(size)
        self._runs += 1
        if self._runs == _ROUND:
            self._draw_along()
        error = seconds - mean
        self._means[size] = mean + _MEAN_GAIN * error
        self._deviations[size] += _DEVIATION_GAIN * (abs(error) - self._deviations[size])

    def _know_quickest(self, size: int, seconds: float) -> None:
        # By what was thought of it as well: a single run may have been a hiccup.
        self._quickest[size] = quickest = min(seconds, self._measured.get(size) or self.expected(size))
        # What was forgiven before the size ran may be next to nothing.
        if size in self._means:
            self._means[size] = max(self._means[size], _LEAST * quickest)

    def expected(self, rows: int) -> float:
        """Seconds that a batch of `rows` rows takes on average."""
        return self._between(self._means, rows)

    def margin(self, rows: int) -> float:
        """Seconds on top of `expected` that a batch of `rows` rows rarely exceeds."""
        return _DEVIATIONS * self._between(self._deviations, rows)

    def bound(self, rows: int) -> float:
        """Seconds that a batch of `rows` rows rarely exceeds."""
        return self.expected(rows) + self.margin(rows)

    def forgive(self, rows: int) -> None:
        """Takes all times for a little shorter: what is refused because of them runs no more to correct them.

        A batch of `rows` rows was refused. What its time was made of was perhaps never right, and others' runs would
        bring it back. But no size that ran is forgiven beyond what it can take: that would admit what has no time.
        """
        if _FORGIVEN * self.expected(rows) < _LEAST * self._between(self._quickest, rows):
            return
        for size in self._sizes:
            if _FORGIVEN * self._means[size] >= _LEAST * self._quickest[size]:
                self._means[size] *= _FORGIVEN
                self._deviations[size] *= _FORGIVEN
        for size in self._around(rows):
            if size not in self._ran:
                self._profile[size] *= _FORGIVEN
                self._forgiven.add(size)

    def _draw_along(self) -> None:
        ran, means, deviations = self._ran, self._means, self._deviations
        # A size whose own part of the profile is in doubt tells nothing of the pace.
        telling = ran - self._forgiven
        expected = sum(self._profile[size] for size in telling)
        if expected > 0:
            self._pace = sum(means[size] for size in telling) / expected or 1.0
            for size in self._sizes:
                if size not in ran:
                    seconds = self._pace * self._profile[size]
                    means[size] += _DRAWN_ALONG * (seconds - means[size])
                    deviations[size] += _DRAWN_ALONG * (seconds * _FIRST_DEVIATION - deviations[size])
        for size in ran & self._forgiven:
            self._profile[size] = means[size] / self._pace
        self._forgiven -= ran
        ran.clear()
        self._runs = 0

    def _around(self, rows: int) -> list[int]:
        """The sizes that `_between` goes by."""
        place = bisect_left(self._sizes, rows)
        if place == len(self._sizes) or place == 0 or self._sizes[place] == rows:
            return self._sizes[place : place + 1] or self._sizes[-1:]
        return self._sizes[place - 1 : place + 1]

    def _between(self, values: Mapping[int, float], rows: int) -> float:
        sizes = self._sizes
        if not sizes:
            return 0.0
        place = bisect_left(sizes, rows)
        if place == len(sizes):
            return values[sizes[-1]] * rows / sizes[-1]
        above = sizes[place]
        if above == rows or place == 0:
            return values[above]
        below = sizes[place - 1]
        share = (rows - below) / (above - below)
        return values[below] + share * (values[above] - values[below])


def _step(rows: int) -> int:
    if rows <= _EXACT_ROWS:
        return rows
    step = 1 << (rows.bit_length() - 4)
    return -(-rows // step) * step
