"""How many workers a server counts."""

from __future__ import annotations

import pytest

from service.jobs.living_workers import LivingWorkers
from service.registry.database import Database
from service.registry.workers import WorkerRegistry


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def rows(database: Database) -> WorkerRegistry:
    return WorkerRegistry(database)


def test_a_worker_is_counted_until_it_is_silent_for_its_lease(rows: WorkerRegistry) -> None:
    clock = _Clock()
    workers = LivingWorkers(rows, clock)
    assert workers.count() == 0
    rows.sign_on("a", 60.0)
    rows.sign_on("b", 600.0)
    assert workers.count() == 2
    clock.now += 59
    rows.beat("a")
    assert workers.count() == 2
    clock.now += 59
    assert workers.count() == 2
    clock.now += 1
    assert workers.count() == 1
    rows.beat("a")
    assert workers.count() == 2


def test_a_worker_that_signed_off_or_was_struck_off_is_not_counted(rows: WorkerRegistry) -> None:
    workers = LivingWorkers(rows, _Clock())
    for worker in ("a", "b"):
        rows.sign_on(worker, 60.0)
    rows.sign_off("a")
    assert workers.count() == 1
    (row,) = [row for row in rows.list() if row.id == "b"]
    rows.strike_off(row)
    assert workers.count() == 0
