"""Sums over processes: what is added, what is not, and that no count falls when a process dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.processes.figures import KIND, Figures, KeptFigures
from service.processes.metric_sums import Summed, families_of, summed, without_gauges
from service.processes.place import Place
from service.processes.siblings import Siblings
from service.processes.statistic_sums import added


class Process:
    """What one process counts, in a registry of its own."""

    def __init__(self, place: Place) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("octavo_requests", "Requests.", ["model"], registry=self.registry)
        self.seconds = Histogram("octavo_seconds", "Seconds.", buckets=(1.0,), registry=self.registry)
        self.queued = Gauge("octavo_queued_rows", "Added.", registry=self.registry)
        self.load = Gauge("octavo_engine_load_duration_seconds", "The largest.", registry=self.registry)
        self.statistics: list[dict[str, Any]] = []
        self.siblings = Siblings(place)
        self.figures = KeptFigures(place, self.siblings, lambda: self.statistics, self.registry)

    async def listen(self) -> None:
        await self.siblings.listen({KIND: self.figures.answer})

    def count(self, requests: int) -> None:
        self.requests.labels("m").inc(requests)
        self.seconds.observe(0.5)
        self.queued.set(requests)
        self.load.set(requests)


def entry(requests: int, last: int = 1, batch: int = 1) -> dict[str, Any]:
    size = {"batch_size": batch, "compute_infer": {"count": requests, "ns": 10}}
    success = {"success": {"count": requests, "ns": 100}}
    return {"name": "m", "version": "1", "last_inference": last, "inference_stats": success, "batch_stats": [size]}


def samples(parts: list[Figures]) -> dict[str, float]:
    text = generate_latest(Summed(summed(part.families for part in parts))).decode()
    families = text_string_to_metric_families(text)
    return {
        sample.name: sample.value for family in families for sample in family.samples if "_bucket" not in sample.name
    }


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(main())


def test_counts_are_added_and_gauges_as_they_mean_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = (Process(place) for place in Place(tmp_path, 1, 2).all)
        await two.listen()
        one.count(2)
        two.count(3)
        found = samples(await one.figures.of_all())
        assert found["octavo_requests_total"] == 5
        assert (found["octavo_seconds_count"], found["octavo_seconds_sum"]) == (2, 1.0)
        assert (found["octavo_queued_rows"], found["octavo_engine_load_duration_seconds"]) == (5, 3)
        assert found["octavo_requests_created"] > 1e9
        two.siblings.close()

    run(scenario)


def test_one_process_is_shown_as_it_would_show_itself(tmp_path: Path) -> None:
    process = Process(Place(tmp_path, 1, 1))
    process.count(2)
    process.requests.labels('a "quoted"\nname').inc()
    assert generate_latest(Summed(summed([families_of(process.registry)]))) == generate_latest(process.registry)


def test_what_a_scrape_has_shown_outlives_the_process_that_counted_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        first, second = Place(tmp_path, 1, 2).all
        one, two = Process(first), Process(second)
        await two.listen()
        one.count(2)
        two.count(3)
        two.statistics = [entry(3)]
        await one.figures.of_all()
        two.siblings.close()
        found = samples(await one.figures.of_all())
        assert found["octavo_requests_total"] == 5
        assert found["octavo_queued_rows"] == 2, "what waited there waits no more"
        # Another process takes the place, counts on, and dies as well; each time the sum goes on.
        for total in (6, 7):
            later = Process(second)
            await later.listen()
            assert samples(await one.figures.of_all())["octavo_requests_total"] == total - 1
            later.count(1)
            later.statistics = [entry(1, last=total)]
            parts = await one.figures.of_all()
            assert samples(parts)["octavo_requests_total"] == total
            (known,) = added(part.statistics for part in parts)
            assert known["inference_stats"]["success"]["count"] == total - 2
            assert known["last_inference"] == total
            later.siblings.close()

    run(scenario)


def test_a_process_that_hangs_is_not_waited_for_and_keeps_its_counts(tmp_path: Path) -> None:
    async def hang(_: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        one, two = (Process(place) for place in Place(tmp_path, 1, 2).all)
        two.count(3)
        await two.figures.keep()
        await two.siblings.listen({KIND: hang})
        one.count(1)
        assert samples(await one.figures.of_all())["octavo_requests_total"] == 4
        two.siblings.close()

    run(scenario)


def test_the_last_counts_of_a_process_that_ends_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = (Process(place) for place in Place(tmp_path, 1, 2).all)
        two.figures.start()
        two.count(3)
        two.statistics = [entry(3)]
        await two.figures.keep()
        # Its models go before it does.
        two.statistics = []
        two.count(1)
        await two.figures.close()
        parts = await one.figures.of_all()
        assert samples(parts)["octavo_requests_total"] == 4
        assert [found["name"] for found in parts[1].statistics] == ["m"]

    run(scenario)


def test_a_folder_that_cannot_be_written_is_told_once_and_the_figures_are_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        process = Process(Place(tmp_path / "gone", 1, 1))
        process.count(2)
        for _ in range(3):
            assert samples(await process.figures.of_all())["octavo_requests_total"] == 2

    caplog.set_level(logging.WARNING)
    run(scenario)
    assert [record.message for record in caplog.records] == ["figures cannot be kept"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"families": []}'])
def test_a_broken_file_counts_for_nothing(tmp_path: Path, content: bytes) -> None:
    async def scenario() -> None:
        (tmp_path / "1.json").write_bytes(content)
        process = Process(Place(tmp_path, 1, 1))
        process.count(2)
        assert samples(await process.figures.of_all())["octavo_requests_total"] == 2

    run(scenario)


def test_what_a_dead_process_had_waiting_is_gone_and_what_it_counted_is_not(tmp_path: Path) -> None:
    process = Process(Place(tmp_path, 1, 1))
    process.count(2)
    names = {family["name"] for family in without_gauges(families_of(process.registry))}
    assert names == {"octavo_requests", "octavo_seconds"}


def test_statistics_are_added_by_version_and_size_of_batch() -> None:
    other = entry(4) | {"version": "2"}
    one, two = added([[entry(2, last=5), other], [entry(3, last=4, batch=8), entry(1, last=3)]])
    assert (one["version"], two["version"]) == ("1", "2")
    assert (one["last_inference"], one["inference_stats"]["success"]) == (5, {"count": 6, "ns": 300})
    sizes = {size["batch_size"]: size["compute_infer"]["count"] for size in one["batch_stats"]}
    assert sizes == {1: 3, 8: 3}
