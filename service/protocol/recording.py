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
    """The request's route, or the model's stable one where it came to none, also while that is not loaded; a name
    nobody deployed makes no series, and neither does a version that nobody did.
    """
    if submitted is not None:
        return submitted.route.metrics
    try:
        return router.routes(*target).stable.route.metrics
    except OctavoError:
        wanted = router.wanted(target[0])
        if wanted is None or target[1] not in (None, wanted.version):
            return metrics_of(("", "", "", ""))
        return metrics_of((wanted.model, str(wanted.version), wanted.stable, "stable"))
