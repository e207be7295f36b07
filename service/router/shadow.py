"""Mirrors answered requests to the shadow variant and counts how often it agrees. Never delays or changes an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import numpy as np

from service.domain.inference import Array, InferRequest, InferResult
from service.errors import DeadlineExceeded, DeadlineUnreachable, OctavoError, QueueFull, Stopping
from service.metrics import SHADOW_COMPARISONS
from service.router.answer import Answer
from service.router.routes import RoutedReplica

# Outputs without classes agree within this share of their largest value.
_TOLERANCE = 0.02
# A shadow without time or place for a request failed none.
_DROPPED = (QueueFull, Stopping, DeadlineUnreachable, DeadlineExceeded)


class ShadowMirror:
    """Watches one route's answers. The shadow gets a request only after its caller's answer is on its way."""

    def __init__(self, shadow: RoutedReplica) -> None:
        self._shadow = shadow
        route = shadow.route
        labels = (route.model, str(route.version), route.variant)
        self._count = {
            outcome: SHADOW_COMPARISONS.labels(*labels, outcome).inc
            for outcome in ("agree", "differ", "failed", "dropped")
        }

    def watch(self, request: InferRequest, answer: Answer) -> None:
        answer.add_done_callback(partial(self._answered, request))

    def _answered(self, request: InferRequest, answer: Answer) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        # Two turns later: a caller that awaits the answer is woken in the next, perhaps after what is called then.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._mirror, request, answer.result())

    def _mirror(self, request: InferRequest, answer: InferResult) -> None:
        plain = request._replace(variant=None, timeout_seconds=None)
        try:
            mirrored = self._shadow.replica.submit(plain, self._shadow.route)
        except _DROPPED:
            self._count["dropped"]()
        except OctavoError:
            self._count["failed"]()
        else:
            mirrored.add_done_callback(partial(self._compare, answer))

    def _compare(self, answer: InferResult, mirrored: Answer) -> None:
        failure = None if mirrored.cancelled() else mirrored.exception()
        if isinstance(failure, _DROPPED):
            self._count["dropped"]()
        elif failure is not None or mirrored.cancelled():
            self._count["failed"]()
        else:
            self._count["agree" if agree(answer.outputs, mirrored.result().outputs) else "differ"]()


def agree(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Whether two answers say the same: the same top class in every row, or values within 2 % of the largest."""
    return one.keys() == other.keys() and all(_same(array, other[name]) for name, array in one.items())


def _same(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f" or one.size == 0:
        return bool(np.array_equal(one, other))
    if one.ndim == 2 and one.shape[1] > 1:
        return bool(np.array_equal(one.argmax(axis=1), other.argmax(axis=1)))
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)) or not np.array_equal(
        one[~finite], other[~finite], equal_nan=True
    ):
        return False
    # FP16 has no room for the difference of its own numbers.
    left, right = (each[finite].astype(np.float64) for each in (one, other))
    return bool(np.max(np.abs(left - right), initial=0.0) <= _TOLERANCE * np.max(np.abs(left), initial=0.0))
