"""Asks and changes all serving processes of a host as one server: figures are summed, settings reach each of them.

One process that serves alone asks nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio.to_thread import run_sync
from prometheus_client import generate_latest

from service.errors import NotFound
from service.logs import LEVELS
from service.metrics import REGISTRY
from service.processes.figures import KIND, KeptFigures
from service.processes.metric_sums import Family, Summed, summed
from service.processes.siblings import Handler, Siblings
from service.processes.statistic_sums import added, same_model
from service.protocol.log_settings import changed_levels, log_settings
from service.protocol.statistics import model_statistics
from service.protocol.tracing import Tracer
from service.router.router import Router
from service.router.routes import ModelRoutes

_LOGGING, _TRACE, _SETTINGS = "logging", "trace", "settings"
_ANSWER_SECONDS = 1.0


class WholeServer:
    """Belongs to the event loop."""

    def __init__(self, router: Router, tracer: Tracer, siblings: Siblings | None = None) -> None:
        self._router = router
        self._tracer = tracer
        self._siblings = siblings or Siblings()
        place = self._siblings.place
        self.figures = None if place is None else KeptFigures(place, self._siblings, self._own_statistics)

    @property
    def handlers(self) -> dict[str, Handler]:
        """What siblings may ask."""
        figures = {} if self.figures is None else {KIND: self.figures.answer}
        return figures | {_LOGGING: self._take_logging, _TRACE: self._take_trace, _SETTINGS: self._settings}

    async def metrics(self) -> bytes:
        """In Prometheus' text."""
        if self.figures is None:
            return await run_sync(generate_latest, REGISTRY)
        parts = await self.figures.of_all()
        return await run_sync(_text, [part.families for part in parts])

    async def statistics(self, models: Sequence[ModelRoutes]) -> list[dict[str, Any]]:
        """The v2 protocol's, one entry for each of `models`."""
        own = [model_statistics(model) for model in models]
        if self.figures is None:
            return own
        known = added(part.statistics for part in await self.figures.of_all())
        return [found for entry in own for found in same_model(known, entry["name"], entry["version"]) or [entry]]

    async def change_logging(self, changes: dict[str, Any]) -> dict[str, Any]:
        """The log settings after the changes. Raises InvalidInput or Unsupported; then none are made."""
        LEVELS.now = changed_levels(LEVELS.now, changes)
        await self._siblings.ask(_LOGGING, _ANSWER_SECONDS, changes=changes)
        return log_settings(LEVELS.now)

    def trace(self, model: str | None = None) -> dict[str, Any]:
        """The trace settings of a model, or of all that have none of their own. Raises NotFound, but for a model that
        still has its own after it was deployed no more.
        """
        if model is not None and model not in self._router.deployed and not self._tracer.has_own(model):
            raise NotFound(f"Request for unknown model: {model[:80]!r} is not found; GET /models lists what there is")
        return self._tracer.shown(model)

    async def change_trace(self, changes: dict[str, Any], model: str | None = None) -> dict[str, Any]:
        """As change_logging, for the trace settings. Raises NotFound for a model that is not deployed."""
        self.trace(model)
        self._tracer.change(changes, model)
        await self._siblings.ask(_TRACE, _ANSWER_SECONDS, changes=changes, model=model)
        return self._tracer.shown(model)

    async def take_over_settings(self) -> None:
        """Has a process that comes later log and trace as its siblings do."""
        answers = await self._siblings.ask(_SETTINGS, _ANSWER_SECONDS)
        for settings in list(answers.values())[:1]:
            await self._take_logging({"changes": settings["logging"]})
            for model, changes in settings["trace"]:
                self._tracer.change(changes, model)

    def _own_statistics(self) -> list[dict[str, Any]]:
        return [model_statistics(model) for model in self._router.models()]

    async def _take_logging(self, words: dict[str, Any]) -> None:
        LEVELS.now = changed_levels(LEVELS.now, words["changes"])

    async def _take_trace(self, words: dict[str, Any]) -> None:
        self._tracer.change(words["changes"], words["model"])

    async def _settings(self, _: dict[str, Any]) -> dict[str, Any]:
        logging = {name: value for name, value in log_settings(LEVELS.now).items() if name != "log_file"}
        return {"logging": logging, "trace": self._tracer.changes()}


def _text(parts: Sequence[Sequence[Family]]) -> bytes:
    return generate_latest(Summed(summed(parts)))
