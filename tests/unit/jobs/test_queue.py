"""What the job queue promises its callers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from service.domain.job import Stage
from service.errors import Conflict, NotFound, QueueFull
from service.jobs.queue import JobQueue, Key
from service.registry.database import Database
from service.registry.jobs import JobRegistry
from tests.samples import quantize_request


def _workflows(database: Database) -> int:
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    with database.read() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table} WHERE status = 'ENQUEUED'")).scalar_one())


def test_an_accepted_job_is_a_row_and_a_durable_workflow(database: Database) -> None:
    before = _workflows(database)
    job, created = JobQueue(database, 10).submit(quantize_request())
    assert created
    assert (job.state, job.progress, job.attempt) == ("queued", 0.0, 0)
    assert _workflows(database) == before + 1


def test_the_same_request_twice_is_one_job_even_at_once(database: Database) -> None:
    queue = JobQueue(database, 10)
    queue.submit(quantize_request("fp16"))
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: queue.submit(quantize_request()), range(6)))
    assert len({job.id for job, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


def test_a_failed_or_cancelled_job_can_be_asked_for_again(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    first, _ = queue.submit(quantize_request())
    rows.finish(first.id, "failed", error={"error": "x", "code": "stage_failed"})
    second, created = queue.submit(quantize_request())
    assert created
    assert second.id != first.id


def test_a_job_that_was_too_slow_for_its_budget_can_be_asked_for_again(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    request = quantize_request()
    timed = replace(request, budget=replace(request.budget, min_speedup=1.5))
    for asked, repeatable in ((timed, True), (request, False)):
        first, _ = queue.submit(asked)
        proof = {"min_speedup": asked.budget.min_speedup}
        rows.finish(first.id, "rejected", result={"certificate": proof})
        assert queue.submit(asked)[1] is repeatable


def test_a_finished_job_answers_the_same_request(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    first, _ = queue.submit(quantize_request())
    rows.finish(first.id, "succeeded", result={"variant": "v"})
    again, created = queue.submit(quantize_request())
    assert (again.id, created, again.progress) == (first.id, False, 1.0)


def test_an_idempotency_key_finds_its_job_and_refuses_another_request(database: Database) -> None:
    queue = JobQueue(database, 10)
    assert queue.find_keyed(Key("key-1", "digest")) is None
    job, _ = queue.submit(quantize_request(), Key("key-1", "digest"))
    assert queue.find_keyed(Key("key-1", "digest")) == job
    assert queue.submit(quantize_request("fp16"), Key("key-1", "digest")) == (job, False)
    with pytest.raises(Conflict, match="Idempotency-Key 'key-1' was used for another request"):
        queue.find_keyed(Key("key-1", "other"))
    with pytest.raises(Conflict, match="Idempotency-Key 'key-1' was used for another request"):
        queue.submit(quantize_request(), Key("key-1", "other"))


def test_a_full_queue_refuses_and_leaves_nothing_behind(database: Database) -> None:
    queue = JobQueue(database, 1)
    queue.submit(quantize_request())
    before = _workflows(database)
    with pytest.raises(QueueFull, match="1 jobs are waiting or running and the limit is 1"):
        queue.submit(quantize_request("fp16"))
    assert len(queue.list()) == 1
    assert _workflows(database) == before


def test_a_queued_job_is_cancelled_at_once_and_only_once(database: Database) -> None:
    queue = JobQueue(database, 10)
    job, _ = queue.submit(quantize_request())
    assert queue.cancel(job.id).state == "cancelled"
    with pytest.raises(Conflict, match="is cancelled already"):
        queue.cancel(job.id)


def test_a_running_job_is_asked_to_end(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    job, _ = queue.submit(quantize_request())
    rows.begin(job.id)
    asked = queue.cancel(job.id)
    assert (asked.state, asked.cancel_requested) == ("running", True)
    assert rows.is_cancel_requested(job.id)


def test_a_finished_job_never_changes_again(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    job, _ = queue.submit(quantize_request())
    rows.finish(job.id, "cancelled")
    rows.finish(job.id, "succeeded", result={})
    rows.set_stage(job.id, Stage("build", "done", 1.0), 0.5)
    assert rows.begin(job.id).state == "cancelled"


def test_an_attempt_that_a_later_one_has_replaced_writes_nothing(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    job, _ = queue.submit(quantize_request())
    stale, last = rows.begin(job.id), rows.begin(job.id)
    rows.set_progress(job.id, 0.9, stale.attempt)
    rows.set_stage(job.id, Stage("build", "failed", 1.0), 0.9, stale.attempt)
    rows.finish(job.id, "failed", error={"error": "x", "code": "internal"}, attempt=stale.attempt)
    assert rows.find(job.id) == last
    rows.set_progress(job.id, 0.2, last.attempt)
    assert rows.find(job.id).progress == 0.2


def test_jobs_are_listed_newest_first_in_pages_and_by_filter(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    ids = [queue.submit(quantize_request(precision))[0].id for precision in ("fp32", "fp16", "int8")]
    rows.begin(ids[0])
    assert [job.id for job in queue.list()] == ids[::-1]
    assert [job.id for job in queue.list(limit=2)] == [ids[2], ids[1]]
    assert [job.id for job in queue.list(limit=2, before=ids[1])] == [ids[0]]
    assert [job.id for job in queue.list(state="running")] == [ids[0]]
    assert queue.list(model="other") == []
    with pytest.raises(NotFound, match="job 'nope' does not exist"):
        queue.list(before="nope")


def test_counts_and_durations_tell_of_every_state(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    done, _ = queue.submit(quantize_request("fp32"))
    queue.submit(quantize_request("fp16"))
    rows.begin(done.id)
    rows.finish(done.id, "succeeded", result={})
    assert queue.counts() == {("quantize", "succeeded"): 1, ("quantize", "queued"): 1}
    under, number, seconds = queue.durations((0.0, 60.0))["quantize", "succeeded"]
    assert (under[1], number) == (1, 1)
    assert 0 <= seconds < 60


def test_an_attempt_is_counted_each_time_a_worker_takes_the_job(database: Database) -> None:
    queue, rows = JobQueue(database, 10), JobRegistry(database)
    job, _ = queue.submit(quantize_request())
    started = rows.begin(job.id).started_at
    again = rows.begin(job.id)
    assert (again.attempt, again.started_at) == (2, started)
