"""Explicit load and unload of models by name: a wish on record, which every server of the installation follows.

Refuses names that nothing was uploaded under.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from anyio.to_thread import run_sync

from service.domain.model import NAME_PATTERN
from service.errors import NotFound, OctavoError
from service.protocol.following import Following
from service.registry.deployments import DeploymentRegistry
from service.registry.models import ModelRegistry
from service.router.model_state import READY
from service.router.reconcile import Reconciler
from service.router.router import Router

_log = logging.getLogger(__name__)


class IndexLine(NamedTuple):
    """A line of the repository index; a model that was never deployed, or is no more, has only its name."""

    name: str
    version: str | None = None
    state: str | None = None
    reason: str = ""


class ModelLoading:
    """Belongs to the event loop. Both changes are answered once they hold on this server."""

    def __init__(
        self, router: Router, reconciler: Reconciler | Following, deployments: DeploymentRegistry, models: ModelRegistry
    ) -> None:
        self._router = router
        self._reconciler = reconciler
        self._deployments = deployments
        self._models = models

    async def load(self, model: str) -> None:
        """Returns once the model answers. Raises NotFound, or what keeps it from loading; it is tried on then."""
        _check_name(model, "load")
        deployment = await run_sync(self._deployments.load, model)
        try:
            await self._reconciler.settle(model, deployment.revision, retry=True)
        except OctavoError as error:
            raise type(error)(f"failed to load {model!r}, {error}") from error

    async def unload(self, model: str) -> None:
        """Returns once what was admitted is answered and the memory given back. Raises NotFound."""
        _check_name(model, "unload")
        deployment = await run_sync(self._deployments.unload, model)
        await self._reconciler.settle(model, deployment.revision)
        await self._router.drained(model)

    async def index(self, only_ready: bool = False) -> list[IndexLine]:
        """Every version that answers or should, and, unless `only_ready`, the models that are not deployed."""
        lines = [
            IndexLine(line.name, str(line.version), line.state, line.reason)
            for line in self._router.statuses()
            if line.state == READY or not only_ready
        ]
        if only_ready:
            return lines
        listed = {line.name for line in lines}
        return lines + [IndexLine(name) for name in await self._uploaded() if name not in listed]

    async def _uploaded(self) -> list[str]:
        try:
            return [version.name for version in await run_sync(self._models.list)]
        except OctavoError as error:
            # What answers is known without the database, and most wanted in an outage of it.
            _log.warning("models that are not deployed left out of the index", extra={"error": str(error)})
            return []


def _check_name(model: str, change: str) -> None:
    if NAME_PATTERN.fullmatch(model) is None:
        raise NotFound(f"failed to {change} {model[:80]!r}, there is no such model; GET /models lists what there is")
