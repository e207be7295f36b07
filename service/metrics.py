"""Every Prometheus metric of the serving process, declared once; docs/metrics.md lists them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString

REGISTRY = CollectorRegistry(auto_describe=True)

# 100 us to 10 s: a tiny model on a CPU answers in tens of microseconds, an overloaded one in seconds.
LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
JOB_SECONDS_BUCKETS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)

VARIANT_LABELS = ("model", "version", "variant", "route")

# Of several serving processes of a host these gauges are added up; of the others the largest holds for all.
ADDED_GAUGES = frozenset({"octavo_queued_rows", "octavo_engines_ready", "octavo_processes"})


class Series:
    """One histogram series without locks: written by the event loop's thread alone, read by whoever scrapes."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class LoopHistogram:
    """A histogram family of `Series`: a tenth of the cost of a locked one, where three are written a request."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = bounds
        self._series: dict[tuple[str, ...], Series] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these VARIANT_LABELS; the same one for the same values."""
        return self._series.setdefault(values, Series(self._bounds))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=VARIANT_LABELS)
        edges = [_edge(bound) for bound in (*self._bounds, float("inf"))]
        for values, series in list(self._series.items()):
            family.add_metric(values, list(zip(edges, accumulate(series.counts), strict=True)), series.total)
        yield family


class Count:
    """One counter series without a lock, under the same rule as `Series`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class LoopCounter:
    """A counter family of `Count`."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._series: dict[tuple[str, ...], Count] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> Count:
        return self._series.setdefault(values, Count())

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in list(self._series.items()):
            family.add_metric(values, count.value)
        yield family


class LiveGauge:
    """A gauge family read where it lives, at each scrape: series of what is gone are gone too."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._read: Callable[[], Iterable[tuple[Sequence[str], float]]] = tuple
        REGISTRY.register(self)

    def read_from(self, read: Callable[[], Iterable[tuple[Sequence[str], float]]]) -> None:
        """`read` gives label values and value of each series; it may be called in any thread."""
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, value in self._read():
            family.add_metric(values, value)
        yield family


def _edge(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


REQUEST_SECONDS = LoopHistogram(
    "octavo_request_duration_seconds", "Inference request, from body received to response built.", LATENCY_BUCKETS
)
QUEUE_SECONDS = LoopHistogram(
    "octavo_queue_duration_seconds", "Wait of a request for its batch to start.", LATENCY_BUCKETS
)
COMPUTE_SECONDS = LoopHistogram("octavo_compute_duration_seconds", "Run of one batch in the engine.", LATENCY_BUCKETS)
BATCH_ROWS = LoopHistogram("octavo_batch_size_rows", "Rows in each executed batch.", BATCH_BUCKETS)
REQUESTS = LoopCounter(
    "octavo_requests_total", "Inference requests by outcome: ok, or the error's code.", (*VARIANT_LABELS, "outcome")
)
QUEUED_ROWS = LiveGauge("octavo_queued_rows", "Rows waiting before a replica.", VARIANT_LABELS)
ENGINES_READY = LiveGauge("octavo_engines_ready", "Replicas that are ready.", ("model", "version", "variant"))
ENGINES_UNPROVEN = LiveGauge(
    "octavo_engines_unproven", "Deployed engines without proof on this host.", ("model", "version", "variant")
)
ENGINE_FALLBACKS = LiveGauge(
    "octavo_engine_fallbacks",
    "Deployed engines in whose place another answers here.",
    ("model", "version", "variant", "fallback"),
)
PROCESSES = LiveGauge("octavo_processes", "Serving processes of this server that answered the scrape.", ())
PROCESSES.read_from(lambda: [((), 1.0)])
ENGINE_LOAD_SECONDS = Gauge(
    "octavo_engine_load_duration_seconds", "Load and warm-up of the replica.", ("model", "version", "variant"),
    registry=REGISTRY,
)  # fmt: skip
SHADOW_COMPARISONS = Counter(
    "octavo_shadow_comparisons_total",
    "Mirrored requests by outcome: agree, differ, failed, or dropped because the shadow was full or too slow.",
    ("model", "version", "variant", "outcome"),
    registry=REGISTRY,
)
HTTP_REQUESTS = Counter(
    "octavo_http_requests_total", "HTTP requests outside inference, by method, route template and status.",
    ("method", "path", "status"), registry=REGISTRY,
)  # fmt: skip
GRPC_REQUESTS = Counter(
    "octavo_grpc_requests_total", "gRPC calls outside inference, by method and status code.",
    ("method", "code"), registry=REGISTRY,
)  # fmt: skip
