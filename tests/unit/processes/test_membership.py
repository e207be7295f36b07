"""When a process lets callers in, and when all of them are ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from service.processes.membership import Membership
from service.processes.place import Place
from service.processes.siblings import Siblings
from tests.async_waiting import until


class Process:
    """A process without figures. `taken_over` is whether it asked for the others' settings."""

    def __init__(self, place: Place | None) -> None:
        self.first_pass = asyncio.Event()
        self.stopping = False
        self.taken_over = False
        self.membership = Membership(Siblings(place), None, self.first_pass)

    async def join(self) -> None:
        await self.membership.join({}, self._take_over, lambda: self.stopping)

    async def _take_over(self) -> None:
        self.taken_over = True


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario()

    asyncio.run(main())


def test_all_are_ready_when_each_listens_and_has_loaded_its_models_and_before_that_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, two = (Process(place) for place in Place(tmp_path, 1, 2).all)
        for each in (one, two):
            # At the start nobody waits: callers may ask whether it is ready.
            await each.join()
            assert not each.taken_over
        one.first_pass.set()
        two.membership.listens()
        assert not Place(tmp_path, 1, 2).was_ready()
        one.membership.listens()
        await until(lambda: Place(tmp_path, 1, 2).was_ready())
        assert not one.membership.is_ready()
        two.first_pass.set()
        await until(one.membership.is_ready)
        assert two.membership.is_ready()
        for each in (one, two):
            await each.membership.leave()

    run(scenario)


def test_a_process_in_a_dead_ones_place_lets_callers_in_when_it_has_loaded(tmp_path: Path) -> None:
    async def scenario() -> None:
        place = Place(tmp_path, 2, 2)
        place.set_ready()
        later = Process(place)
        joining = asyncio.create_task(later.join())
        await until(lambda: later.taken_over)
        assert not joining.done()
        later.first_pass.set()
        await joining
        await later.membership.leave()

    run(scenario)


def test_a_process_that_still_loads_ends_when_it_is_told_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        place = Place(tmp_path, 2, 2)
        place.set_ready()
        later = Process(place)
        joining = asyncio.create_task(later.join())
        await until(lambda: later.taken_over)
        later.stopping = True
        await joining
        await later.membership.leave()

    run(scenario)


def test_a_process_alone_is_ready_when_it_has_loaded() -> None:
    async def scenario() -> None:
        alone = Process(None)
        await alone.join()
        assert not alone.membership.is_ready()
        alone.first_pass.set()
        assert alone.membership.is_ready()
        await alone.membership.leave()

    run(scenario)
