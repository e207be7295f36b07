"""Which series an inference request counts under: the same ones, whichever protocol it came by."""

from __future__ import annotations

from service.errors import OctavoError
from service.router.route import RouteMetrics, metrics_of
from service.router.router import Router, Submitted

# Model and version; None for the one that answers now.
Target = tuple[str, int | None]


def record_answer(submitted: Submitted, seconds: float) -> None:
    metrics = submitted.route.metrics
    metrics.request.observe(seconds)
    metrics.answered.value += 1


def request_metrics(router: Router, target: Target, submitted: Submitted | None) -> RouteMetrics:
    """The request's route, or the model's stable one where it came to none; a name nobody deployed makes no series."""
    if submitted is not None:
        return submitted.route.metrics
    try:
        return router.routes(*target).stable.route.metrics
    except OctavoError:
        return metrics_of(("", "", "", ""))
