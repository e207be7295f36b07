"""Every metric that a server exports, as its code declares it: what documents and dashboards are checked against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryDirectory

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service import metrics
from service.api.job_metrics import JobMetrics
from service.jobs.queue import JobQueue
from service.registry.database import Database
from service.registry.schema import migrate

_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: `name` as a scrape shows it, so with `_total` for a counter."""

    name: str
    kind: str
    labels: tuple[str, ...]

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        return tuple(self.name + suffix for suffix in _SUFFIXES.get(self.kind, ("",)))


@cache
def declared_families() -> dict[str, Family]:
    """Every family by name; those of the jobs are read from an empty database."""
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/octavo.db")
        migrate(database)
        collectors = [value for value in vars(metrics).values() if _is_collector(value)]
        found = [family for collector in (*collectors, JobMetrics(JobQueue(database, 1))) for family in _of(collector)]
        database.close()
    return {family.name: family for family in found}


def _is_collector(value: object) -> bool:
    return hasattr(value, "collect") and not isinstance(value, type) and value is not metrics.REGISTRY


def _of(collector: Collector) -> Iterator[Family]:
    for metric in collector.collect():
        name = f"{metric.name}_total" if metric.type == "counter" else metric.name
        yield Family(name, metric.type, _labels(metric, collector))


def _labels(metric: Metric, collector: Collector) -> tuple[str, ...]:
    # The client library keeps label names on the family, or on the collector, and shows them nowhere without samples.
    on_family: tuple[str, ...] = getattr(metric, "_labelnames", ())
    on_collector: tuple[str, ...] = getattr(collector, "_labelnames", ())
    return tuple(on_family or on_collector)
