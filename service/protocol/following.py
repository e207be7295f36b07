"""Has every serving process of the host follow a changed deployment at once. The answer to a change waits for them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from service.processes.siblings import Handler, Siblings
from service.router.reconcile import Reconciler
from service.router.router import Router

_WAKE, _SETTLE = "wake", "settle"
_WAKE_SECONDS = 5.0
# A sibling loads the same engines at the same time, so it is hardly later than this process; if so, it follows alone.
_LATER_SECONDS = 30.0
_LOAD_SECONDS = 3600.0
_log = logging.getLogger(__name__)


class Following:
    """The reconcilers of all processes as one. Belongs to the event loop."""

    def __init__(self, router: Router, reconciler: Reconciler, siblings: Siblings) -> None:
        self._router = router
        self._reconciler = reconciler
        self._siblings = siblings

    @property
    def handlers(self) -> dict[str, Handler]:
        """What siblings may ask."""
        return {_WAKE: self._take_wake, _SETTLE: self._take_settle}

    def wake(self) -> None:
        """Has the next pass of each begin at once."""
        self._reconciler.wake()
        self._siblings.tell(_WAKE, _WAKE_SECONDS)

    async def settle(self, model: str, revision: int, retry: bool = False) -> None:
        """As the reconciler's, for all of them. One that does not answer, or is half a minute later, is not waited for.

        Raises what keeps one of them from loading, unless it only cannot do so now.
        """
        words = {"model": model, "revision": revision, "retry": retry}
        asking = asyncio.create_task(self._siblings.require(_SETTLE, _LOAD_SECONDS, **words))
        # Whoever fails first is told of; nobody may ask for the other's failure then.
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await self._reconciler.settle(model, revision, retry)
            await asyncio.wait({asking}, timeout=_LATER_SECONDS)
            if asking.done():
                await asking
            else:
                _log.warning("a sibling is later to serve", extra={"model": model, "revision": revision})
        finally:
            asking.cancel()

    async def _take_wake(self, _: dict[str, Any]) -> None:
        self._reconciler.wake()

    async def _take_settle(self, words: dict[str, Any]) -> None:
        model = words["model"]
        await self._reconciler.settle(model, words["revision"], words["retry"])
        current = self._router.current(model)
        if current is not None and not current.deployment.loaded:
            await self._router.drained(model)
