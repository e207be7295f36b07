"""How a serving process begins among its siblings, when it is ready, and how it ends. Alone it has nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from service.processes.figures import KeptFigures
from service.processes.siblings import Handler, Siblings

# How soon a process that still loads its engines sees that it is told to stop.
_LOOK_SECONDS = 0.2


class Membership:
    """`first_pass` is set once this process has tried to load every model. Belongs to the event loop."""

    def __init__(self, siblings: Siblings, figures: KeptFigures | None, first_pass: asyncio.Event) -> None:
        self._siblings = siblings
        self._figures = figures
        self._first_pass = first_pass
        self._listening = asyncio.Event()
        self._marking: asyncio.Task[None] | None = None

    async def join(
        self, handlers: Mapping[str, Handler], take_over: Callable[[], Awaitable[None]], stopping: Callable[[], bool]
    ) -> None:
        """Answers the siblings, and returns when callers' connections may come to this process too.

        At the server's start that is at once: nobody is ready, and whoever is asked says so. A process that takes the
        place of a dead one has loaded its engines first, and has the settings that `take_over` gets of the others.
        """
        place = self._siblings.place
        if place is None:
            return
        late = place.was_ready()
        self._marking = asyncio.create_task(self._mark_ready())
        await self._siblings.listen(handlers)
        if self._figures is not None:
            self._figures.start()
        if late:
            await take_over()
            while not (self._first_pass.is_set() or stopping()):
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._first_pass.wait(), _LOOK_SECONDS)

    def listens(self) -> None:
        """This process takes connections of every protocol from now on."""
        self._listening.set()

    def is_ready(self) -> bool:
        """Whether each of the processes has listened, and tried to load every model, once."""
        if not self._first_pass.is_set():
            return False
        place = self._siblings.place
        return place is None or all(each.was_ready() for each in place.all)

    async def leave(self) -> None:
        """Call it when everything is counted."""
        if self._marking is not None:
            self._marking.cancel()
        if self._figures is not None:
            await self._figures.close()
        self._siblings.close()

    async def _mark_ready(self) -> None:
        await self._first_pass.wait()
        await self._listening.wait()
        if self._siblings.place is not None:
            self._siblings.place.set_ready()
