"""The serving state: which models answer by which routes, and how a deployment change takes effect.

Loads and warms before it swaps, and drains after, so that no request fails. A failed load leaves what answers alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from service.domain.deployment import Deployment, ServedModel
from service.domain.engine import EngineArtifact
from service.domain.inference import InferRequest, InferResult
from service.domain.limits import InferLimits
from service.engines.engine import Engine
from service.errors import DeviceFailed, NotFound, OctavoError
from service.metrics import ENGINE_FALLBACKS, ENGINES_READY, QUEUED_ROWS
from service.router.answer import Answer
from service.router.loading import ReplicaLoader
from service.router.model_state import ModelState, VersionStatus
from service.router.permit import stopping
from service.router.replica import Replica
from service.router.route import Route
from service.router.routes import ModelRoutes, RoutedReplica

_log = logging.getLogger(__name__)
_DRAIN_SECONDS = 60.0


class Submitted(NamedTuple):
    """A request under way: its answer to come, its route, and what runs it."""

    answer: Answer
    route: Route
    replica: Replica

    @property
    def datatypes(self) -> Mapping[str, str]:
        """Those of the outputs by name."""
        return self.replica.output_datatypes

    @property
    def prompt(self) -> bool:
        """Whether the answer comes within a turn or two of the event loop."""
        return self.replica.runs_inline


class Router:
    """Belongs to the event loop that calls it. `load_engine` is called in a thread and may block."""

    def __init__(
        self,
        limits: InferLimits,
        load_engine: Callable[[EngineArtifact], Engine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loader = ReplicaLoader(limits, load_engine, clock, self._replace_lost)
        self._states: dict[str, ModelState] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.stopping = False
        QUEUED_ROWS.read_from(lambda: [(r.route.metrics.labels, r.replica.queued_rows) for r in self._routed()])
        ENGINES_READY.read_from(
            lambda: [(r.route.metrics.labels[:3], 1) for r in self._distinct() if r.replica.lost is None]
        )
        ENGINE_FALLBACKS.read_from(self._fallbacks)

    def submit(self, model: str, version: int | None, request: InferRequest) -> Submitted:
        """Admits one request without waiting. Raises what `routes`, admission and the queue raise."""
        state = self._state(model)
        route, replica = state.pick(version, request.variant)
        answer = replica.submit(request, route)
        if state.mirror is not None and route.name != "shadow":
            state.mirror.watch(request, answer)
        return Submitted(answer, route, replica)

    async def infer(self, model: str, version: int | None, request: InferRequest) -> InferResult:
        """One request to its answer; a cancelled caller's is not run. Raises also EngineFailed, DeadlineExceeded."""
        return await self.submit(model, version, request).answer

    def routes(self, model: str, version: int | None = None) -> ModelRoutes:
        """What answers for the model now. Raises NotFound, NoReadyVersion, NotReady or Stopping."""
        return self._state(model).routes_of(version)

    def models(self) -> list[ModelRoutes]:
        """The routes of every model that answers, by name."""
        return [state.routes for _, state in sorted(self._states.items()) if state.routes is not None]

    def statuses(self) -> list[VersionStatus]:
        """Every version that answers or should, with what keeps it from answering."""
        return [line for _, state in sorted(self._states.items()) for line in state.statuses()]

    @property
    def settled(self) -> bool:
        """Whether no wished model is still at its first load."""
        return all(state.settled for state in self._states.values())

    def current(self, model: str) -> ServedModel | None:
        """What answers for the model with all its variants loaded, or what is unloaded; None where neither is so."""
        state = self._states.get(model)
        if state is None:
            return None
        if state.unloaded:
            return state.wanted
        return state.routes.served if state.routes is not None and state.routes.complete else None

    def wanted(self, model: str) -> Deployment | None:
        """What is to answer for the model, whether it does or not; None where it is not deployed."""
        state = self._states.get(model)
        return None if state is None else state.wanted.deployment

    @property
    def deployed(self) -> frozenset[str]:
        """Names of all models that were deployed and not withdrawn."""
        return frozenset(self._states)

    def failure(self, model: str, revision: int) -> OctavoError | None:
        """Why this or a later revision of the model's deployment could not be loaded; None where that is not so."""
        state = self._states.get(model)
        return state.failure if state is not None and state.failed_revision >= revision else None

    def answering(self, wanted: ServedModel) -> ServedModel:
        """`wanted`, or what answers in its place because its stable engine cannot be loaded: a lost device aside, which
        no other build of the engine would bring back. Thread-safe.
        """
        state = self._states.get(wanted.name)
        if state is None or state.routes is None or isinstance(state.failure, DeviceFailed):
            return wanted
        served = state.routes.served
        same = served.fallback_for and served.deployment.revision == wanted.deployment.revision
        return served if same else wanted

    def notice(self, model: str) -> str:
        """Why something else answers for the model than what is deployed; "" where nothing does. Raises NotFound."""
        return self._state(model).notice

    async def deploy(self, served: ServedModel) -> None:
        """Makes `served` answer: loads and warms what is new, swaps the routes at once, then drains what is old.

        What is wished unloaded answers no more instead, and drains.

        Returns once it answers. Raises what kept an engine from loading; what answered before goes on then. Where
        nothing answered, and only a canary or shadow fails, the stable variant answers all the same.
        """
        if self.stopping:
            raise stopping()
        state = self._states.setdefault(served.name, ModelState(served))
        async with state.lock:
            if self._states.get(served.name) is state:
                await (self._replace if served.deployment.loaded else self._unload)(state, served)
                return
        # It was withdrawn while this waited; what is wished now starts afresh.
        await self.deploy(served)

    async def _replace(self, state: ModelState, served: ServedModel) -> None:
        state.wanted = served
        loaded = state.routes.replicas if state.routes else {}
        replicas, failure = await self._loader.load(served, loaded)
        answering = served
        # What answers now is better than a part of what is wished, or a fallback, unless its device is lost.
        makeshift = failure is not None and (state.routes is None or state.routes.lost)
        if makeshift and served.deployment.stable not in replicas:
            answering, replicas = await self._fall_back(served, loaded, failure)
        state.failure, state.failed_revision = failure, served.deployment.revision
        fresh = [replica for replica in replicas.values() if replica not in loaded.values()]
        if self.stopping:
            self._retire(fresh, state)
            raise stopping()
        if self._states.get(served.name) is not state:
            # It was withdrawn meanwhile.
            self._retire(fresh, state)
            return
        if failure is None or makeshift:
            routes = ModelRoutes(answering, replicas) if replicas else None
            self._retire(state.install(routes), state)
        else:
            self._retire(fresh, state)
        if failure is not None:
            raise type(failure)(str(failure))
        told = {"model": served.name, "revision": served.deployment.revision}
        _log.info("model is served", extra=told)
        if served.notice:
            _log.warning("another engine answers than is deployed", extra=told | {"reason": served.notice})

    async def _fall_back(
        self, served: ServedModel, loaded: dict[str, Replica], failure: OctavoError | None
    ) -> tuple[ServedModel, dict[str, Replica]]:
        found = await self._loader.load_fallback(served, loaded, str(failure))
        if found is None:
            return served, {}
        told = {"model": served.name, "variant": served.deployment.stable, "fallback": found[0].deployment.stable}
        _log.warning("a fallback answers in a variant's place", extra=told | {"reason": str(failure)})
        return found

    def _replace_lost(self, replica: Replica) -> None:
        """Has something else answer for a replica whose device is lost, as its deployment would be loaded anew."""
        told = {"model": replica.artifact.model, "variant": replica.artifact.variant, "reason": str(replica.lost)}
        _log.error("a replica is lost with its device", extra=told)
        state = self._states.get(replica.artifact.model)
        if state is not None and not self.stopping:
            task = asyncio.ensure_future(self._reload(state))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _reload(self, state: ModelState) -> None:
        async with state.lock:
            # While this waited another wish may have come, or the model was withdrawn.
            wanted = state.wanted
            if self.stopping or self._states.get(wanted.name) is not state or not wanted.deployment.loaded:
                return
            with suppress(OctavoError):
                # What cannot be loaded is in the state, for readiness and the index to tell.
                await self._replace(state, wanted)

    async def _unload(self, state: ModelState, served: ServedModel) -> None:
        state.wanted, state.failure = served, None
        self._retire(state.install(None), state)
        _log.info("model is unloaded", extra={"model": served.name, "revision": served.deployment.revision})

    async def drained(self, model: str) -> None:
        """Returns once nothing that the model no longer needs holds memory: what was admitted is answered."""
        state = self._states.get(model)
        if state is not None and state.draining:
            await asyncio.wait(set(state.draining))

    def withdraw(self, model: str) -> None:
        """Ends the model's serving once its admitted requests are answered; an unknown model is no error."""
        state = self._states.pop(model, None)
        if state is not None:
            self._retire(state.install(None), state)

    async def close(self, drain_seconds: float) -> None:
        """Refuses new requests, answers the admitted ones within `drain_seconds`, and closes every engine."""
        self.stopping = True
        states, self._states = self._states, {}
        for state in states.values():
            self._retire(state.install(None), state, drain_seconds)
        # What takes a lost replica's place may still load, and is closed then.
        while self._closing:
            await asyncio.gather(*self._closing)
        self._loader.close()

    def _state(self, model: str) -> ModelState:
        state = self._states.get(model)
        if state is not None:
            return state
        if self.stopping:
            raise stopping()
        raise NotFound(f"Request for unknown model: {model[:80]!r} is not found; GET /models lists what there is")

    def _retire(self, replicas: list[Replica], state: ModelState, drain_seconds: float = _DRAIN_SECONDS) -> None:
        for replica in replicas:
            task = asyncio.ensure_future(replica.close(drain_seconds))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            state.draining[task] = replica.artifact.version
            task.add_done_callback(state.draining.pop)

    def _fallbacks(self) -> Iterator[tuple[tuple[str, str, str, str], float]]:
        """A series for each variant that is deployed and in whose place another answers."""
        for routes in self.models():
            served, stable = routes.served, routes.served.deployment.stable
            replaced = dict.fromkeys([*(artifact.variant for artifact in served.unproven), served.fallback_for])
            for variant in filter(None, replaced):
                yield (served.name, str(served.version.version), variant, stable), 1.0

    def _routed(self) -> Iterator[RoutedReplica]:
        return (routed for routes in self.models() for routed in routes.all)

    def _distinct(self) -> list[RoutedReplica]:
        return list({id(routed.replica): routed for routed in self._routed()}.values())
