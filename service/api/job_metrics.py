"""The metrics of the whole installation's jobs and workers, read at each scrape: every server answers the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from anyio.to_thread import run_sync
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.domain.job import STATES
from service.errors import OctavoError
from service.jobs.queue import JobQueue
from service.metrics import JOB_SECONDS_BUCKETS

_KIND = "quantize"
# Far less than the 10 that Prometheus waits for all of an answer.
_DATABASE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class JobMetrics(Collector):
    """Job counts and durations, and the workers that live."""

    def __init__(self, jobs: JobQueue) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Raises Unavailable when the database does not answer."""
        counts = {(_KIND, state): 0 for state in STATES} | self._jobs.counts()
        gauge = GaugeMetricFamily("octavo_jobs", "Jobs by kind and state.", labels=("kind", "state"))
        for labels, number in counts.items():
            gauge.add_metric(labels, number)
        histogram = HistogramMetricFamily(
            "octavo_job_duration_seconds", "Finished jobs, from first start to end.", labels=("kind", "state")
        )
        for labels, (under, number, total) in self._jobs.durations(JOB_SECONDS_BUCKETS).items():
            bounds = zip(map(str, JOB_SECONDS_BUCKETS), under, strict=True)
            histogram.add_metric(labels, [*bounds, ("+Inf", number)], total)
        yield gauge
        yield GaugeMetricFamily("octavo_workers", "Workers that live.", value=self._jobs.living_workers())
        yield histogram


class JobScrapes:
    """Job metrics as text; a scrape goes on without them where the database is away or late. Belongs to the event loop.

    One thread reads at a time, so that none pile up behind a database that hangs.
    """

    def __init__(self) -> None:
        self._reading: asyncio.Task[bytes] | None = None

    async def text(self, jobs: JobQueue) -> bytes:
        """Empty where they could not be read within a second."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(run_sync(_text, jobs, abandon_on_cancel=True))
        reading = self._reading
        await asyncio.wait({reading}, timeout=_DATABASE_SECONDS)
        if reading.done():
            return reading.result()
        _log.warning("job metrics left out", extra={"error": f"the database is over {_DATABASE_SECONDS} s late"})
        return b""


def _text(jobs: JobQueue) -> bytes:
    try:
        return generate_latest(JobMetrics(jobs))
    except OctavoError as error:
        # A scrape in an outage of the database is when this server's own figures are wanted most.
        _log.warning("job metrics left out", extra={"error": str(error)})
        return b""
