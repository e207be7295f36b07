"""What the serving processes of a host counted together; what a process counted outlives it, in a file of its place."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from prometheus_client.registry import Collector

from service.metrics import REGISTRY
from service.processes.metric_sums import Family, families_of, summed, without_gauges
from service.processes.place import Place
from service.processes.siblings import Siblings
from service.processes.statistic_sums import added

KIND = "figures"
# What was counted since, a killed process takes along; what a scrape has shown, it never does.
_PERIOD_SECONDS = 5.0
_ANSWER_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Figures(NamedTuple):
    """Metric families, and the v2 protocol's statistics of each served version."""

    families: list[Family]
    statistics: list[dict[str, Any]]

    def counts(self) -> Figures:
        return Figures(without_gauges(self.families), self.statistics)


class KeptFigures:
    """This process's figures on top of those that died in its place, and the sum over all places.

    `statistics` is asked on the event loop, to which this belongs.
    """

    def __init__(
        self,
        place: Place,
        siblings: Siblings,
        statistics: Callable[[], list[dict[str, Any]]],
        registry: Collector = REGISTRY,
    ) -> None:
        self._place = place
        self._siblings = siblings
        self._statistics = statistics
        self._registry = registry
        self._before = _read(place).counts()
        self._lock = asyncio.Lock()
        self._failure = ""
        # A model that is served no longer was served all the same.
        self._seen: dict[tuple[str, str], dict[str, Any]] = {}
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keeps the figures from now on, again and again."""
        self._keeping = asyncio.create_task(self._keep_on())

    async def close(self) -> None:
        """Keeps them a last time, for the process that takes this one's place."""
        async with self._lock:
            # Not while it writes: the thread would go on, and might put older figures over the last ones.
            if self._keeping is not None:
                self._keeping.cancel()
        await self.keep()

    async def keep(self) -> Figures:
        """This process's figures as they are now, written down before anybody sees them."""
        async with self._lock:
            self._seen |= {(entry["name"], entry["version"]): entry for entry in self._statistics()}
            statistics = added([self._before.statistics, self._seen.values()])
            return await asyncio.to_thread(self._write, statistics)

    async def answer(self, _: dict[str, Any]) -> None:
        """A sibling reads the file then."""
        await self.keep()

    async def of_all(self) -> list[Figures]:
        """In the order of the places. Of a process that does not answer in a second, only what it last counted."""
        own, answers = await asyncio.gather(self.keep(), self._siblings.ask(KIND, _ANSWER_SECONDS))
        return await asyncio.to_thread(self._read_all, own, set(answers))

    async def _keep_on(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                await self.keep()
            except Exception:  # noqa: BLE001 (logged, and kept again in a period)
                _log.exception("figures were not kept")

    def _read_all(self, own: Figures, answered: set[int]) -> list[Figures]:
        others = (place for place in self._place.all if place.number != self._place.number)
        read = {place.number: _read(place) if place.number in answered else _read(place).counts() for place in others}
        return [read.get(place.number, own) for place in self._place.all]

    def _write(self, statistics: list[dict[str, Any]]) -> Figures:
        figures = Figures(summed([self._before.families, families_of(self._registry)]), statistics)
        path = self._place.figures
        try:
            partial = path.with_suffix(".partial")
            partial.write_bytes(orjson.dumps(figures._asdict()))
            os.replace(partial, path)
            self._failure = ""
        except OSError as error:
            # Once, not at each try: the figures are still answered, but a kill would take them along.
            if str(error) != self._failure:
                _log.warning("figures cannot be kept", extra={"file": str(path), "error": str(error)})
            self._failure = str(error)
        return figures


def _read(place: Place) -> Figures:
    try:
        return Figures(**orjson.loads(place.figures.read_bytes()))
    except FileNotFoundError:
        return Figures([], [])
    except (OSError, ValueError, TypeError) as error:
        _log.warning("figures cannot be read", extra={"file": str(place.figures), "error": str(error)})
        return Figures([], [])
