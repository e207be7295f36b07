"""Loads and warms the engines that a deployment needs and that are not loaded yet, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy

from service.domain.batching import Batching
from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact
from service.domain.limits import InferLimits
from service.engines.engine import Engine
from service.engines.huge_pages import gather_in_huge_pages
from service.errors import EngineFailed, InvalidTensor, OctavoError
from service.logs import log_context
from service.metrics import ENGINE_LOAD_SECONDS
from service.router.replica import Replica
from service.router.warmup import WarmEngine, warm_up

_log = logging.getLogger(__name__)
# Two at a time: one slow load holds up no other model, and serving keeps most of the processor.
_LOADS_AT_ONCE = 2


class ReplicaLoader:
    """Makes replicas. `load_engine` blocks and raises; what it raises beside Octavo's own becomes EngineFailed."""

    def __init__(
        self,
        limits: InferLimits,
        load_engine: Callable[[EngineArtifact], Engine],
        clock: Callable[[], float],
        on_lost: Callable[[Replica], None],
    ) -> None:
        """`on_lost` is what its replicas call when their device fails."""
        self._on_lost = on_lost
        self._limits = limits
        self._load_engine = load_engine
        self._clock = clock
        self._threads = ThreadPoolExecutor(_LOADS_AT_ONCE, "octavo-load")

    async def load(
        self, served: ServedModel, loaded: dict[str, Replica]
    ) -> tuple[dict[str, Replica], OctavoError | None]:
        """A replica for each variant, taken from `loaded` where its artifact is the same, and the first failure.

        The stable variant comes first: where it fails, nothing else is loaded.
        """
        replicas: dict[str, Replica] = {}
        failure: OctavoError | None = None
        for variant in served.deployment.variants:
            artifact = served.artifacts[variant]
            try:
                replica = _same(loaded.get(variant), artifact) or await self._load_one(artifact)
                # Closed by its owner where the proof fails.
                replicas[variant] = replica
                await self._prove(replica, served.deployment.batching)
            except OctavoError as error:
                # Without its traceback: it is remembered, and frames of the load may hold half an engine.
                failure = failure or copy(error)
                if variant == served.deployment.stable:
                    break
        return replicas, failure

    async def load_fallback(
        self, served: ServedModel, loaded: dict[str, Replica], reason: str
    ) -> tuple[ServedModel, dict[str, Replica]] | None:
        """The first of the model's fallbacks that loads, as what answers for `reason` instead; None where none does."""
        for fallback in served.fallbacks:
            try:
                replica = _same(loaded.get(fallback.variant), fallback) or await self._load_one(fallback)
            except OctavoError as error:
                told = {"model": served.name, "variant": fallback.variant, "error": str(error)}
                _log.warning("a fallback cannot be loaded; the next is tried", extra=told)
                continue
            return served.with_fallback(fallback, reason), {fallback.variant: replica}
        return None

    async def _prove(self, replica: Replica, batching: Batching) -> None:
        if batching.padding is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, replica.prove, batching)

    async def _load_one(self, artifact: EngineArtifact) -> Replica:
        loop = asyncio.get_running_loop()
        warm = await loop.run_in_executor(self._threads, self._load_warm, artifact)
        return Replica(artifact, warm, self._limits, self._clock, self._on_lost)

    def _load_warm(self, artifact: EngineArtifact) -> WarmEngine:
        began = self._clock()
        try:
            engine = self._load_engine(artifact)
        except OctavoError:
            raise
        except Exception as error:
            raise EngineFailed(
                f"variant {artifact.variant!r} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        labels = (artifact.model, str(artifact.version), artifact.variant)
        with log_context(model=labels[0], version=labels[1], variant=labels[2]):
            warm = _warmed(engine, min(self._limits.max_batch_rows, artifact.batch_max), self._clock)
            # Now that its buffers are as large as they will be.
            gathered = gather_in_huge_pages()
            _log.debug("memory gathered in huge pages", extra={"bytes": gathered})
        ENGINE_LOAD_SECONDS.labels(*labels).set(self._clock() - began)
        return warm

    def close(self) -> None:
        """Takes no more work; a load under way ends in the background."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _warmed(engine: Engine, max_rows: int, clock: Callable[[], float]) -> WarmEngine:
    try:
        return warm_up(engine, max_rows, clock)
    except InvalidTensor as error:
        # The rows were made up here, and no caller is to blame for them.
        engine.close()
        raise EngineFailed(f"the engine takes no row that it was warmed up with: {error}") from error
    except BaseException:
        engine.close()
        raise


def _same(replica: Replica | None, artifact: EngineArtifact) -> Replica | None:
    """The replica where it is an engine of this very artifact."""
    if replica is None or replica.lost is not None:
        return None
    then, now = replica.artifact, artifact
    same = (then.model, then.version, then.sha256) == (now.model, now.version, now.sha256)
    return replica if same else None
