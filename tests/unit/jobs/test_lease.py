"""What workers promise each other: a dead one's jobs go on elsewhere, a living one's never do."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from service.errors import InvalidInput, Unavailable
from service.jobs.lease import LOOKS_PER_LEASE, HeldJobs, Lease, LeaseLost
from service.jobs.life_marks import LifeMarks
from service.registry.database import Database
from service.registry.schema import migrate
from service.registry.workers import WorkerRegistry, WorkerRow


class _Jobs:
    """The queue's view: which worker holds which job."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.released: list[str] = []

    def release(self, worker: str) -> None:
        self.released.append(worker)
        self.held = {job: holder for job, holder in self.held.items() if holder != worker}

    def parts(self) -> HeldJobs:
        return HeldJobs(lambda: set(self.held.values()), self.release, lambda: None)


@pytest.fixture
def rows(database: Database) -> WorkerRegistry:
    migrate(database)
    return WorkerRegistry(database)


def _worker(name: str, rows: WorkerRegistry, jobs: _Jobs, folder: Path, seconds: float = 60.0) -> Lease:
    lease = Lease(name, seconds, rows, jobs.parts(), LifeMarks(folder))
    lease.begin()
    return lease


def test_a_silent_workers_jobs_are_released_once_its_lease_is_over(rows: WorkerRegistry, tmp_path: Path) -> None:
    jobs = _Jobs()
    jobs.held = {"j1": "dead", "j2": "a"}
    a, b, dead = (_worker(name, rows, jobs, tmp_path / name) for name in ("a", "b", "dead"))
    dead.look()
    for _ in range(LOOKS_PER_LEASE):
        a.look()
        b.look()
        assert jobs.released == []
    a.look()
    b.look()
    assert jobs.released == ["dead"]
    assert {row.id for row in rows.list()} == {"a", "b"}


def test_a_worker_that_gives_signs_of_life_is_left_alone(rows: WorkerRegistry, tmp_path: Path) -> None:
    jobs = _Jobs()
    a, b = (_worker(name, rows, jobs, tmp_path / name) for name in "ab")
    for _ in range(3 * LOOKS_PER_LEASE):
        a.look()
        b.look()
    assert jobs.released == []


def test_another_workers_longer_lease_is_honoured(rows: WorkerRegistry, tmp_path: Path) -> None:
    jobs = _Jobs()
    _worker("slow", rows, jobs, tmp_path / "slow", seconds=600.0)
    a = _worker("a", rows, jobs, tmp_path / "a", seconds=6.0)
    for _ in range(600):
        a.look()
    assert jobs.released == []
    a.look()
    assert jobs.released == ["slow"]


def test_a_worker_that_signed_off_is_replaced_at_once_and_warned_of_by_nobody(
    rows: WorkerRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = _Jobs()
    a, gone = (_worker(name, rows, jobs, tmp_path / name) for name in ("a", "gone"))
    gone.end()
    a.look()
    assert jobs.released == ["gone"]
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_worker_that_died_on_the_same_folder_is_replaced_at_once(rows: WorkerRegistry, tmp_path: Path) -> None:
    jobs = _Jobs()
    a, gone = (_worker(name, rows, jobs, tmp_path / "marks") for name in ("a", "host/gone"))
    with a.marks.held("a"):
        with gone.marks.held("host/gone"):
            a.look()
            assert jobs.released == []
        a.look()
        assert jobs.released == ["host/gone"]
        a.look()
        assert [mark.name for mark in (tmp_path / "marks").iterdir()] == ["a.lock"]


def test_jobs_of_a_worker_without_a_row_are_not_forgotten(rows: WorkerRegistry, tmp_path: Path) -> None:
    # Whoever struck it off died before it could hand the jobs on.
    jobs = _Jobs()
    jobs.held = {"j1": "struck off"}
    a = _worker("a", rows, jobs, tmp_path)
    for _ in range(LOOKS_PER_LEASE + 2):
        a.look()
    assert jobs.released == ["struck off"]


def test_a_worker_that_was_taken_for_dead_learns_it(rows: WorkerRegistry, tmp_path: Path) -> None:
    jobs = _Jobs()
    a, paused = (_worker(name, rows, jobs, tmp_path / name) for name in ("a", "paused"))
    paused.confirm()
    for _ in range(LOOKS_PER_LEASE + 1):
        a.look()
    for still_mine in (paused.look, paused.confirm, lambda: paused.keep(Event())):
        with pytest.raises(LeaseLost):
            still_mine()


def test_a_worker_that_was_struck_off_does_not_come_back_by_the_jobs_that_it_still_holds(
    rows: WorkerRegistry, tmp_path: Path
) -> None:
    jobs = _Jobs()
    jobs.held = {"j1": "paused"}
    b, paused = (_worker(name, rows, jobs, tmp_path / name) for name in ("b", "paused"))
    (seen,) = [row for row in rows.list() if row.id == "paused"]
    # Whoever does it has not handed its jobs on yet.
    assert rows.strike_off(seen)
    b.look()
    with pytest.raises(LeaseLost):
        paused.look()
    for _ in range(LOOKS_PER_LEASE + 1):
        b.look()
    assert jobs.released == ["paused"]
    assert [row.id for row in rows.list()] == ["b"]
    # It takes another job before it learns of it.
    jobs.held = {"j2": "paused"}
    b.look()
    with pytest.raises(LeaseLost):
        paused.confirm()


def test_a_worker_that_signed_off_gives_no_sign_of_life_any_more(rows: WorkerRegistry, tmp_path: Path) -> None:
    gone = _worker("gone", rows, _Jobs(), tmp_path)
    gone.end()
    assert not rows.beat("gone")
    (row,) = rows.list()
    assert row.signed_off


def test_a_sign_of_life_in_the_last_moment_counts(rows: WorkerRegistry, tmp_path: Path) -> None:
    late = _worker("late", rows, _Jobs(), tmp_path)
    late.look()
    (seen,) = rows.list()
    late.look()
    assert not rows.strike_off(seen)
    assert rows.list() == [WorkerRow("late", 2, 60.0)]


class _Outage(WorkerRegistry):
    """A database that is away while `down`."""

    down = False

    def list(self) -> list[WorkerRow]:
        if self.down:
            raise Unavailable("the database did not answer")
        return super().list()


def test_nobody_is_taken_for_dead_because_the_database_was_away(database: Database, tmp_path: Path) -> None:
    migrate(database)
    rows, jobs = _Outage(database), _Jobs()
    a, b = (_worker(name, rows, jobs, tmp_path / name) for name in "ab")
    b.look()
    for turn in range(3 * LOOKS_PER_LEASE):
        # Away for one look of every five, so that b, which says nothing, is never seen silent for a whole lease.
        rows.down = turn % 5 == 4
        a.keep(_stopped())
    assert jobs.released == []
    rows.down = False
    for _ in range(LOOKS_PER_LEASE + 1):
        a.keep(_stopped())
    assert jobs.released == ["b"]


def _stopped() -> Event:
    stopped = Event()
    stopped.set()
    return stopped


def test_marks_in_a_folder_that_cannot_be_made_say_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="OCTAVO_DATA_DIR"), LifeMarks(tmp_path / "file" / "workers").held("a"):
        pass
