"""One loaded engine that answers, from ready through draining to closed, or lost with its device before.

Records the batches that it runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from service.domain.batching import Batching, QueuePolicy, policy_of
from service.domain.engine import GPU_RUNTIMES, EngineArtifact
from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.domain.tensor import TensorSpec
from service.errors import DeviceFailed, OctavoError
from service.router.admission import Signature
from service.router.answer import Answer
from service.router.batch import Batch, BatchRunner, Pending
from service.router.batcher import Batcher
from service.router.execution_times import ExecutionTimes
from service.router.padding import Padder
from service.router.padding_proof import proven_padder
from service.router.permit import answering_seconds, expired
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
        self._warm = warm
        self._limits = limits
        self._clock = clock
        self.policy = self._policy_of(Batching())
        self._signature = self._signature_for(self.policy.max_rows)
        self._padder: Padder | None = None
        self._proven: Padder | None = None
        self._loop = asyncio.get_running_loop()
        # One batch is copied to and from a GPU while it computes another.
        self.instances = max(limits.instances, _GPU_INSTANCES if artifact.runtime in GPU_RUNTIMES else 1)
        runners = [BatchRunner(warm.engine, warm.max_rows, clock) for _ in range(self.instances)]
        # Warming up made rows as short as the engine takes: what these took says nothing of a caller's.
        lengths_vary = any(-1 in spec.row_shape for spec in self.inputs)
        times = ExecutionTimes({} if lengths_vary else warm.seconds)
        self._batcher = Batcher(runners, self.policy, times, warm.inline_rows, self._deliver)

    @property
    def max_rows(self) -> int:
        """The most rows of a request and of a batch; 0 where requests are never joined."""
        return self.policy.max_rows

    @property
    def queued_rows(self) -> int:
        return self._batcher.queued_rows

    @property
    def runs_inline(self) -> bool:
        return self._batcher.runs_inline

    def allow_inline(self, allowed: bool) -> None:
        self._batcher.allow_inline(allowed)

    def prove(self, batching: Batching) -> None:
        """Proves on the engine what `follow` needs proven. Blocks. Raises InvalidInput where padding changes answers.

        Call it in a thread; an engine runs beside its batches.
        """
        padding = batching.padding
        if padding is not None and (self._proven is None or self._proven.padding != padding):
            self._proven = proven_padder(self._warm.engine, padding)

    def follow(self, batching: Batching) -> None:
        """Goes by `batching` from the next request on; padding only as it was proven."""
        self.policy = policy = self._policy_of(batching)
        proven = self._proven
        self._padder = proven if proven is not None and proven.padding == batching.padding else None
        # A new one: what was admitted under the one before is checked again.
        self._signature = self._signature_for(policy.max_rows)
        self._batcher.follow(policy)

    def _policy_of(self, batching: Batching) -> QueuePolicy:
        return policy_of(batching, self._limits, self._warm.max_rows, self._warm.saturating_rows)

    def _signature_for(self, max_rows: int) -> Signature:
        return Signature(self.artifact.model, self.inputs, self.outputs, max_rows)

    def submit(self, request: InferRequest, route: Route) -> Answer:
        """Admits and queues one request. Raises what admission and the queue raise; the answer, EngineFailed too.

        A lost replica raises DeviceFailed.
        """
        if self.lost is not None:
            raise DeviceFailed(str(self.lost))
        cut = None
        rows, key = self._signature.admit(request)
        if self._padder is not None:
            # What is refused as it came is not made larger first.
            request, cut = self._padder.pad(request)
            key = key if cut is None else self._signature.key(request)
        if route.name == "shadow":
            # A canary may be the same variant: whose answers a batch holds is counted by its route.
            key = route.name, key
        answer = Answer()
        pending = Pending(request.inputs, request.outputs, rows, key, route, answer, request.priority, cut)
        seconds = _shorter(self.policy.timeout_seconds, request.timeout_seconds)
        if seconds is not None:
            pending.timeout = seconds
        self._batcher.submit(pending)
        if seconds is not None:
            self._limit(answer, seconds)
        return answer

    def _limit(self, answer: Answer, seconds: float) -> None:
        """The deadline holds while the engine is busy too; what has expired is not run any more."""
        timer = self._loop.call_later(answering_seconds(seconds), _expire, answer, seconds)
        answer.add_done_callback(lambda _: timer.cancel())

    def _deliver(self, batch: Batch) -> None:
        compute_us, now = int(batch.seconds * 1e6), self._clock()
        batch.members[0].route.metrics.record_batch(batch.rows, batch.seconds)
        for pending, outcome in zip(batch.members, batch.outcomes, strict=True):
            route, answer = pending.route, pending.answer
            waited = batch.started_at - pending.queued_at
            route.metrics.queue.observe(waited)
            if isinstance(outcome, DeviceFailed) and self.lost is None:
                self.lost = outcome
                self._on_lost(self)
            if answer.done():
                continue
            if isinstance(outcome, OctavoError):
                answer.set_exception(outcome)
            elif now > pending.deadline:
                # The loop was held up, and with it the timer that would have told.
                answer.set_exception(expired(pending.timeout))
            else:
                if pending.cut is not None:
                    outcome = pending.cut(outcome)
                computed = route.metrics.computed
                computed.runs += 1
                computed.seconds += batch.seconds
                answer.set_result(
                    InferResult(outcome, route.variant, route.version, route.name, int(waited * 1e6), compute_us)
                )

    async def close(self, drain_seconds: float) -> None:
        """Answers what was admitted, then gives the engine's memory back."""
        if not await self._batcher.drain(drain_seconds):
            _log.warning("replica was not drained in time", extra={"variant": self.artifact.variant})
        if await self._batcher.close(_JOIN_SECONDS):
            await asyncio.to_thread(self._warm.engine.close)
        else:
            _log.error("engine hangs; its memory stays taken", extra={"variant": self.artifact.variant})


def _shorter(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _expire(answer: Answer, seconds: float) -> None:
    if not answer.done():
        answer.set_exception(expired(seconds))
