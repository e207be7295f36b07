"""Stands in for the inference endpoint's steps while requests are traced, and notes when each began and ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from service.api.infer_body import Headers
from service.api.inference import Body, Exchange, InferenceEndpoint, Reply
from service.api.recording import Target
from service.api.trace_file import TraceFile
from service.api.tracing import Tracer
from service.domain.inference import InferResult
from service.router.router import Router, Submitted


@dataclass(slots=True, eq=False)
class TracedExchange(Exchange):
    """An exchange whose timestamps are wanted: `queued` is when its request was decoded and queued."""

    queued: float = 0.0


class TracedSteps:
    """While `tracer` is active these replace the endpoint's steps; else it is as if they had never been."""

    def __init__(
        self, endpoint: InferenceEndpoint, router: Router, file: TraceFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.tracer = Tracer(file, self._switch)
        self._endpoint = endpoint
        self._router = router
        self._clock = clock
        self._plain_exchange, self._plain_submit = endpoint.exchange, endpoint.submit
        self._plain_reply = endpoint.reply

    def _switch(self, active: bool) -> None:
        steps = {"exchange": self._exchange, "submit": self._submit, "reply": self._reply}
        for name, step in steps.items():
            if active:
                setattr(self._endpoint, name, step)
            else:
                vars(self._endpoint).pop(name, None)

    def _exchange(self, target: Target) -> Exchange:
        if self.tracer.takes_next(target[0]):
            return TracedExchange(target, self._clock())
        return self._plain_exchange(target)

    def _submit(self, exchange: Exchange, headers: Headers, body: Body) -> Submitted:
        if not isinstance(exchange, TracedExchange):
            return self._plain_submit(exchange, headers, body)
        model, version = exchange.target
        exchange.head, request = self._endpoint.decode(exchange.target, headers, body)
        exchange.queued = self._clock()
        exchange.submitted = self._router.submit(model, version, request)
        return exchange.submitted

    def _reply(self, exchange: Exchange, result: InferResult) -> Reply:
        reply = self._plain_reply(exchange, result)
        if isinstance(exchange, TracedExchange) and exchange.head is not None:
            begun = exchange.queued + result.queue_us / 1e6
            ended = begun + result.compute_us / 1e6
            seconds = {
                "REQUEST_START": exchange.began,
                "QUEUE_START": exchange.queued,
                "COMPUTE_START": begun,
                # Joining and splitting the rows of a batch is part of its run.
                "COMPUTE_INPUT_END": begun,
                "COMPUTE_OUTPUT_START": ended,
                "COMPUTE_END": ended,
                "REQUEST_END": self._clock(),
            }
            self.tracer.record(exchange.target[0], result.version, exchange.head.id, seconds)
        return reply
