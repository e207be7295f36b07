"""One loaded engine that answers, from ready through draining to closed, or lost with its device before.

Records the batches that it runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.domain.engine import GPU_RUNTIMES, EngineArtifact
from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.domain.tensor import TensorSpec
from service.errors import DeadlineExceeded, DeviceFailed, OctavoError
from service.router.admission import Signature
from service.router.batch import Batch, BatchRunner, Pending
from service.router.batcher import Batcher
from service.router.route import Route
from service.router.warmup import WarmEngine

_log = logging.getLogger(__name__)
# How long a thread that is told to end may still be inside the runtime before it is left behind.
_JOIN_SECONDS = 10.0
_GPU_INSTANCES = 2


class Replica:
    """Made on the event loop from an engine that has warmed up; submits, delivers and closes there."""

    def __init__(
        self,
        artifact: EngineArtifact,
        warm: WarmEngine,
        limits: InferLimits,
        clock: Callable[[], float],
        on_lost: Callable[[Replica], None] = lambda replica: None,
    ) -> None:
        """`on_lost` is called once, on the loop, when a device error has ended the engine for good."""
        self.artifact = artifact
        self.lost: DeviceFailed | None = None
        self._on_lost = on_lost
        self.inputs: tuple[TensorSpec, ...] = warm.engine.inputs
        self.outputs: tuple[TensorSpec, ...] = warm.engine.outputs
        self.output_datatypes = {spec.name: spec.datatype for spec in self.outputs}
        self.max_rows = warm.max_rows
        self._engine = warm.engine
        self._signature = Signature(artifact.model, self.inputs, self.outputs, warm.max_rows)
        self._loop = asyncio.get_running_loop()
        # One batch is copied to and from a GPU while it computes another.
        self.instances = max(limits.instances, _GPU_INSTANCES if artifact.runtime in GPU_RUNTIMES else 1)
        runners = [BatchRunner(warm.engine, warm.max_rows, clock) for _ in range(self.instances)]
        self._batcher = Batcher(runners, limits, warm.inline_rows, self._deliver)

    @property
    def queued_rows(self) -> int:
        return self._batcher.queued_rows

    @property
    def runs_inline(self) -> bool:
        return self._batcher.runs_inline

    def allow_inline(self, allowed: bool) -> None:
        self._batcher.allow_inline(allowed)

    def submit(self, request: InferRequest, route: Route) -> asyncio.Future[InferResult]:
        """Admits and queues one request. Raises InvalidTensor, QueueFull or Stopping; the future, EngineFailed too.

        A lost replica raises DeviceFailed.
        """
        if self.lost is not None:
            raise DeviceFailed(str(self.lost))
        rows, key = self._signature.admit(request)
        future: asyncio.Future[InferResult] = self._loop.create_future()
        self._batcher.submit(Pending(request.inputs, request.outputs, rows, key, route, future))
        if request.timeout_seconds is not None:
            self._limit(future, request.timeout_seconds)
        return future

    def _limit(self, future: asyncio.Future[InferResult], seconds: float) -> None:
        """The deadline holds while the engine is busy too; what has expired is not run any more."""
        timer = self._loop.call_later(seconds, _expire, future, seconds)
        future.add_done_callback(lambda _: timer.cancel())

    def _deliver(self, batch: Batch) -> None:
        compute_us = int(batch.seconds * 1e6)
        batch.members[0].route.metrics.record_batch(batch.rows, batch.seconds)
        for pending, outcome in zip(batch.members, batch.outcomes, strict=True):
            route, future = pending.route, pending.future
            waited = batch.started_at - pending.queued_at
            route.metrics.queue.observe(waited)
            if isinstance(outcome, DeviceFailed) and self.lost is None:
                self.lost = outcome
                self._on_lost(self)
            if future.done():
                continue
            if isinstance(outcome, OctavoError):
                future.set_exception(outcome)
            else:
                computed = route.metrics.computed
                computed.runs += 1
                computed.seconds += batch.seconds
                future.set_result(
                    InferResult(outcome, route.variant, route.version, route.name, int(waited * 1e6), compute_us)
                )

    async def close(self, drain_seconds: float) -> None:
        """Answers what was admitted, then gives the engine's memory back."""
        if not await self._batcher.drain(drain_seconds):
            _log.warning("replica was not drained in time", extra={"variant": self.artifact.variant})
        if await self._batcher.close(_JOIN_SECONDS):
            await asyncio.to_thread(self._engine.close)
        else:
            _log.error("engine hangs; its memory stays taken", extra={"variant": self.artifact.variant})


def _expire(future: asyncio.Future[InferResult], seconds: float) -> None:
    if not future.done():
        future.set_exception(
            DeadlineExceeded(
                f"Request timeout expired after {int(seconds * 1e6)} microseconds; allow more, or retry later"
            )
        )
