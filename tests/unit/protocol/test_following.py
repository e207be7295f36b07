"""Two serving processes and one deployment: who is waited for, and whose failure the caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from service.domain.deployment import ServedModel
from service.domain.engine import EngineArtifact
from service.domain.limits import InferLimits
from service.engines.engine import Engine
from service.errors import EngineFailed, OctavoError, StoreUnavailable
from service.processes.place import Place
from service.processes.siblings import Siblings
from service.protocol.following import Following
from service.router.reconcile import Reconciler
from service.router.router import Router
from tests.async_waiting import until
from tests.engine_shelf import EngineShelf
from tests.served_models import deployment, served


class Process:
    """A router that follows `wish`, which the processes share."""

    def __init__(self, place: Place, wish: dict[str, ServedModel]) -> None:
        self.shelf = EngineShelf()
        self.failure: OctavoError | None = None
        self.loads = 0
        self.router = Router(InferLimits(), self._load)
        self.siblings = Siblings(place)
        # So long a period that only a word from a sibling begins a pass.
        self.reconciler = Reconciler(self.router, lambda: dict(wish), period_seconds=600)
        self.following = Following(self.router, self.reconciler, self.siblings)

    def _load(self, artifact: EngineArtifact) -> Engine:
        self.loads += 1
        if self.failure is not None:
            raise self.failure
        return self.shelf.load(artifact)

    def serves(self) -> bool:
        return self.router.current("m") is not None


Scenario = Callable[[Process, Process, dict[str, ServedModel]], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def start(scenario: Scenario) -> None:
        async def main() -> None:
            wish: dict[str, ServedModel] = {}
            both = [Process(place, wish) for place in Place(tmp_path, 1, 2).all]
            for each in both:
                await each.siblings.listen(each.following.handlers)
            try:
                async with asyncio.timeout(20):
                    await scenario(both[0], both[1], wish)
            finally:
                for each in both:
                    each.siblings.close()
                    await each.router.close(5)

        asyncio.run(main())

    return start


def test_a_change_is_answered_when_both_serve_it(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        wish["m"] = served(deployment())
        await one.following.settle("m", 1)
        assert one.serves()
        assert two.serves()

    run(scenario)


def test_a_change_that_only_the_other_cannot_load_is_not_answered_as_done(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        wish["m"] = served(deployment())
        two.failure = EngineFailed("no memory")
        with pytest.raises(EngineFailed, match=r"no memory \(in serving process 2\)"):
            await one.following.settle("m", 1)

    run(scenario)


def test_what_the_other_can_only_load_later_holds_up_no_change(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        wish["m"] = served(deployment())
        two.failure = StoreUnavailable("the store failed; try again")
        await one.following.settle("m", 1)
        assert one.serves()

    run(scenario)


def test_whoever_only_looks_on_has_no_process_load_what_failed_again(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        wish["m"] = served(deployment())
        two.failure = EngineFailed("no memory")
        for _ in range(3):
            with pytest.raises(EngineFailed):
                await one.following.settle("m", 1)
        assert two.loads == 1
        two.failure = None
        await one.following.settle("m", 1, retry=True)
        assert two.loads == 2

    run(scenario)


def test_ones_own_failure_comes_first(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        wish["m"] = served(deployment())
        for each in (one, two):
            each.failure = EngineFailed("no memory")
        with pytest.raises(EngineFailed, match=r"no memory$"):
            await one.following.settle("m", 1)

    run(scenario)


def test_a_word_to_one_begins_a_pass_of_both(run: Run) -> None:
    async def scenario(one: Process, two: Process, wish: dict[str, ServedModel]) -> None:
        tasks = [asyncio.create_task(each.reconciler.run()) for each in (one, two)]
        await until(lambda: one.reconciler.first_pass.is_set() and two.reconciler.first_pass.is_set())
        wish["m"] = served(deployment())
        one.following.wake()
        await until(lambda: one.serves() and two.serves())
        for task in tasks:
            task.cancel()

    run(scenario)
