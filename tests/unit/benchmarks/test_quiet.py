"""A report tells what disturbed its measurements."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from benchmarks.quiet import Quiet


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.quiet.time.sleep", lambda seconds: None)
    monkeypatch.setattr("benchmarks.quiet.host_ticks", lambda: (0, 0))


def clock_of(steps: Iterator[float]) -> Iterator[float]:
    now = 0.0
    while True:
        now += next(steps)
        yield now


@pytest.mark.usefixtures("ticks")
def test_time_that_no_process_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    times = clock_of(chain([0.0, 0.0001, 0.004, 0.001], repeat(0.0001)))
    monkeypatch.setattr("benchmarks.quiet.time.perf_counter", lambda: next(times))
    quiet = Quiet(1.0)
    quiet.wait()
    assert "lost 1.0% of 1 s to them or to this machine's host, 4.0 ms at most" in quiet.note()


def test_a_report_without_a_measurement_tells_of_none() -> None:
    assert "Of 0 measurements, 0 began" in Quiet(1.0).note()
