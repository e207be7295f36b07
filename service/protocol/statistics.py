"""What the v2 protocol tells of one served version: counts and nanoseconds since this process started."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from service.router.route import RouteMetrics, RunCount, metrics_of_version
from service.router.routes import ModelRoutes

_NONE = {"count": 0, "ns": 0}


def model_statistics(routes: ModelRoutes) -> dict[str, Any]:
    """All routes that the version has had, but for shadows: they answer nobody.

    Joining and splitting rows is part of the run, so of `compute_infer`.
    """
    metrics = metrics_of_version(routes.served.name, routes.served.version.version)
    failures = [route.failures for route in metrics]
    requests = sum(sum(route.request.counts) for route in metrics)
    batches = sum(sum(route.compute.counts) for route in metrics)
    computed = sum(route.computed.runs for route in metrics)
    failed = sum(failure.runs for failure in failures)
    failed_seconds = sum(failure.seconds for failure in failures)
    return {
        "name": routes.served.name,
        "version": str(routes.served.version.version),
        "last_inference": int(max(route.last_at for route in metrics) * 1000),
        "inference_count": int(sum(route.batch_rows.total for route in metrics)),
        "execution_count": batches,
        "inference_stats": {
            "success": _duration(requests - failed, sum(route.request.total for route in metrics) - failed_seconds),
            "fail": _duration(failed, failed_seconds),
            "queue": _duration(
                sum(sum(route.queue.counts) for route in metrics), sum(route.queue.total for route in metrics)
            ),
            "compute_input": _duration(computed, 0),
            "compute_infer": _duration(computed, sum(route.computed.seconds for route in metrics)),
            "compute_output": _duration(computed, 0),
            "cache_hit": _NONE,
            "cache_miss": _NONE,
        },
        "response_stats": {},
        "batch_stats": _batch_statistics(metrics),
        "memory_usage": [],
    }


def _batch_statistics(metrics: Iterable[RouteMetrics]) -> list[dict[str, Any]]:
    sizes: dict[int, RunCount] = {}
    for route in metrics:
        for rows, count in route.sizes.items():
            known = sizes.setdefault(rows, RunCount())
            known.runs += count.runs
            known.seconds += count.seconds
    return [
        {
            "batch_size": rows,
            "compute_input": _duration(count.runs, 0),
            "compute_infer": _duration(count.runs, count.seconds),
            "compute_output": _duration(count.runs, 0),
        }
        for rows, count in sorted(sizes.items())
    ]


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(0, int(seconds * 1e9))}
