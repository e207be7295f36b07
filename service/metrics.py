"""Every Prometheus metric of the serving process, declared once; docs/metrics.md lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry(auto_describe=True)

# 100 us to 10 s: a tiny model on a CPU answers in tens of microseconds, an overloaded one in seconds.
LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
JOB_SECONDS_BUCKETS = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0)

_VARIANT = ("model", "version", "variant", "route")

REQUEST_SECONDS = Histogram(
    "octavo_request_duration_seconds", "Inference request, from body received to response built.",
    _VARIANT, buckets=LATENCY_BUCKETS, registry=REGISTRY,
)  # fmt: skip
QUEUE_SECONDS = Histogram(
    "octavo_queue_duration_seconds", "Wait of a request for its batch to start.",
    _VARIANT, buckets=LATENCY_BUCKETS, registry=REGISTRY,
)  # fmt: skip
COMPUTE_SECONDS = Histogram(
    "octavo_compute_duration_seconds", "Run of one batch in the engine.",
    _VARIANT, buckets=LATENCY_BUCKETS, registry=REGISTRY,
)  # fmt: skip
BATCH_ROWS = Histogram(
    "octavo_batch_size_rows", "Rows in each executed batch.", _VARIANT, buckets=BATCH_BUCKETS, registry=REGISTRY,
)  # fmt: skip
REQUESTS = Counter(
    "octavo_requests_total", "Inference requests by outcome: ok, or the error's code.",
    (*_VARIANT, "outcome"), registry=REGISTRY,
)  # fmt: skip
QUEUED_ROWS = Gauge("octavo_queued_rows", "Rows waiting before a replica.", _VARIANT, registry=REGISTRY)
ENGINES_READY = Gauge(
    "octavo_engine_ready_count",
    "Replicas that are ready.",
    ("model", "version", "variant"),
    registry=REGISTRY,
)
ENGINE_LOAD_SECONDS = Gauge(
    "octavo_engine_load_duration_seconds", "Load and warm-up of the replica.", ("model", "version", "variant"),
    registry=REGISTRY,
)  # fmt: skip
HTTP_REQUESTS = Counter(
    "octavo_http_requests_total", "HTTP requests outside inference, by method, route template and status.",
    ("method", "path", "status"), registry=REGISTRY,
)  # fmt: skip
