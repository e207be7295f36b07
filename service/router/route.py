"""One route of a model: its name in the deployment, and its metric handles, looked up once. Holds no engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from service.metrics import BATCH_ROWS, COMPUTE_SECONDS, QUEUE_SECONDS, REQUEST_SECONDS, REQUESTS, Count, Series


@dataclass(slots=True)
class RunCount:
    """How often batches of one size ran, and for how many seconds in all."""

    runs: int = 0
    seconds: float = 0.0


Labels = tuple[str, str, str, str]
# Beside ok the one outcome that is no error's code: there is nobody to tell it.
CALLER_LEFT = "caller_left"


class RouteMetrics:
    """Written on the event loop only; model, version, variant and route are its labels."""

    __slots__ = (
        "answered",
        "batch_rows",
        "compute",
        "computed",
        "failures",
        "labels",
        "last_at",
        "queue",
        "request",
        "sizes",
    )

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.request: Series = REQUEST_SECONDS.labels(*labels)
        self.queue: Series = QUEUE_SECONDS.labels(*labels)
        self.compute: Series = COMPUTE_SECONDS.labels(*labels)
        self.batch_rows: Series = BATCH_ROWS.labels(*labels)
        self.answered: Count = REQUESTS.labels(*labels, "ok")
        self.failures = RunCount()
        # What the requests of each batch spent in the engine: a batch of eight counts its run eight times.
        self.computed = RunCount()
        self.sizes: dict[int, RunCount] = {}
        self.last_at = 0.0

    def record_batch(self, rows: int, seconds: float) -> None:
        self.compute.observe(seconds)
        self.batch_rows.observe(rows)
        size = self.sizes.get(rows)
        if size is None:
            size = self.sizes[rows] = RunCount()
        size.runs += 1
        size.seconds += seconds
        self.last_at = time.time()

    def record_failure(self, code: str, seconds: float) -> None:
        """`code` is an error's public code."""
        self.request.observe(seconds)
        REQUESTS.labels(*self.labels, code).value += 1
        self.failures.runs += 1
        self.failures.seconds += seconds

    def record_left(self) -> None:
        """A caller that left before its answer: nothing was answered, so nothing took its time."""
        REQUESTS.labels(*self.labels, CALLER_LEFT).value += 1


# By model and version, then by variant and route.
_METRICS: dict[tuple[str, str], dict[tuple[str, str], RouteMetrics]] = {}


def metrics_of(labels: Labels) -> RouteMetrics:
    """The handles of these labels: routes that are made anew go on where those before them ended, as scrapes do."""
    model, version, variant, route = labels
    of_version = _METRICS.setdefault((model, version), {})
    known = of_version.get((variant, route))
    if known is None:
        known = of_version[variant, route] = RouteMetrics(labels)
    return known


def metrics_of_version(model: str, version: int) -> list[RouteMetrics]:
    """Those of every route that the version has had since the process started, shadows aside."""
    of_version = _METRICS.get((model, str(version)), {})
    return [metrics for (_, route), metrics in of_version.items() if route != "shadow"]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A variant under its part in the deployment: stable, canary or shadow.

    `labels` name its classes, where they have names; `batched` is whether the first axis of its outputs is the batch.
    """

    name: str
    model: str
    version: int
    variant: str
    labels: tuple[str, ...] = ()
    batched: bool = True
    metrics: RouteMetrics = field(init=False)

    def __post_init__(self) -> None:
        labels = (self.model, str(self.version), self.variant, self.name)
        object.__setattr__(self, "metrics", metrics_of(labels))
