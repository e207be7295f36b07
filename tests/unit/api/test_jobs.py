"""What the job endpoints promise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import httpx
import pytest

from service.api import jobs
from service.api.dependencies import Services
from service.domain.job import Job, Stage
from service.errors import Unavailable
from service.registry.database import Database
from service.registry.jobs import JobRegistry
from tests.samples import quantize_request
from tests.uploading import refusal
from tests.waiting import wait_until


@pytest.fixture
def rows(database: Database) -> JobRegistry:
    """The worker's end of the jobs."""
    return JobRegistry(database)


@pytest.fixture
def job(services: Services) -> Job:
    return services.jobs.submit(quantize_request())[0]


def submitted(services: Services, number: int) -> list[str]:
    """Ids of new jobs, newest first."""
    request = quantize_request()
    made = [services.jobs.submit(replace(request, version=1 + n, model=f"m{n % 2}"))[0].id for n in range(number)]
    return made[::-1]


def test_a_job_has_every_field_of_the_contract(client: httpx.Client, job: Job, rows: JobRegistry) -> None:
    rows.begin(job.id)
    rows.set_stage(job.id, Stage("inspect", "done", 0.2), 0.14)
    body = client.get(f"/jobs/{job.id}").json()
    expected = {"id": job.id, "kind": "quantize", "model": "digits", "version": 1, "state": "running"}
    assert body.items() >= (expected | {"stage": "inspect", "progress": 0.14, "attempt": 1, "result": None}).items()
    assert body["stages"][0] == {"name": "inspect", "state": "done", "seconds": 0.2}
    assert body["created_at"].endswith("Z")
    assert (body["finished_at"], body["error"]) == (None, None)


def test_pages_lead_through_all_jobs_newest_first(client: httpx.Client, services: Services) -> None:
    expected = submitted(services, 5)
    seen, path, pages = [], "/jobs?limit=2", 0
    while path:
        page = client.get(path).json()
        seen += [each["id"] for each in page["jobs"]]
        path, pages = page["next"], pages + 1
    assert (seen, pages) == (expected, 3)


def test_the_filters_hold_on_every_page(client: httpx.Client, services: Services, rows: JobRegistry) -> None:
    ids = submitted(services, 6)
    rows.finish(ids[1], "failed")
    page = client.get("/jobs?model=m1&limit=2&state=queued").json()
    more = client.get(page["next"]).json()
    assert [each["id"] for each in page["jobs"] + more["jobs"]] == [ids[0], ids[2], ids[4]]
    assert more["next"] is None
    assert [each["id"] for each in client.get("/jobs?state=failed").json()["jobs"]] == [ids[1]]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", "query.limit is '0'"),
        ("limit=201", "query.limit is '201'"),
        ("limit=x", "query.limit is 'x'"),
        ("state=done", "query.state is 'done'"),
        ("model=a/b", "'a/b'"),
        ("before=%00", "query.before"),
        (f"before={'x' * 65}", "query.before"),
    ],
)
def test_a_wrong_filter_is_refused_and_named(client: httpx.Client, query: str, words: str) -> None:
    refusal(client.get(f"/jobs?{query}"), 422, words)


def test_a_job_that_is_not_there_answers_404(client: httpx.Client) -> None:
    for path in ("/jobs/nope", "/jobs/nope/events", "/jobs/nope/report", "/jobs/nope/report.html", "/jobs?before=nope"):
        refusal(client.get(path), 404, "'nope'")
    refusal(client.delete("/jobs/nope"), 404, "'nope'")
    refusal(client.get("/jobs/%00"), 422, "job_id")
    refusal(client.get(f"/jobs/{'x' * 300}"), 422, "job_id")


def test_a_queued_job_is_cancelled_at_once(client: httpx.Client, job: Job) -> None:
    answer = client.delete(f"/jobs/{job.id}")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    refusal(client.delete(f"/jobs/{job.id}"), 409, "cancelled already")


def test_a_running_job_is_asked_to_end(client: httpx.Client, job: Job, rows: JobRegistry) -> None:
    rows.begin(job.id)
    body = client.delete(f"/jobs/{job.id}").json()
    assert (body["state"], body["cancel_requested"]) == ("running", True)
    assert rows.is_cancel_requested(job.id)


def events(client: httpx.Client, job_id: str, seen: Callable[[str], None] = lambda _line: None) -> Iterator[str]:
    """The lines of the job's event stream."""
    with client.stream("GET", f"/jobs/{job_id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            seen(line)
            yield line


def test_events_tell_each_change_and_end_with_the_job(
    client: httpx.Client, job: Job, rows: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    told: list[dict[str, object]] = []
    for line in events(client, job.id):
        if not line.startswith("data: "):
            assert line in ("event: job", "")
            continue
        told.append(json.loads(line.removeprefix("data: ")))
        # Each change is made only once the one before it has arrived.
        if len(told) == 1:
            rows.begin(job.id)
        elif len(told) == 2:
            rows.set_stage(job.id, Stage("calibrate", "running"), 0.3)
        elif len(told) == 3:
            rows.finish(job.id, "succeeded", result={"variant": "int8-onnxruntime"})
    assert [(each["state"], each["stage"]) for each in told] == [
        ("queued", None),
        ("running", None),
        ("running", "calibrate"),
        ("succeeded", "calibrate"),
    ]
    assert told[-1] == client.get(f"/jobs/{job.id}").json()


def test_events_of_a_finished_job_are_one(client: httpx.Client, job: Job, rows: JobRegistry) -> None:
    rows.finish(job.id, "failed", error={"error": "x", "code": "stage_failed"})
    assert [line for line in events(client, job.id) if line == "event: job"] == ["event: job"]


def test_a_quiet_stream_is_kept_alive(client: httpx.Client, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "KEEP_ALIVE_SECONDS", 0.02)
    assert next(line for line in events(client, job.id) if line.startswith(":")) == ": still here"


def test_open_streams_end_when_the_server_stops(
    services: Services, serve: Callable[[Services], httpx.Client], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    stopping, begun = Event(), Event()
    client = serve(replace(services, stopping=stopping.is_set))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: list(events(client, job.id, lambda _line: begun.set())))
        wait_until(begun.is_set)
        stopping.set()
        assert "event: job" in reading.result(10)


def test_a_stream_ends_when_the_database_goes_away(
    client: httpx.Client, services: Services, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    find = services.jobs.find
    answers = iter([find(job.id)])

    def find_once(job_id: str) -> Job:
        try:
            return next(answers)
        except StopIteration:
            raise Unavailable("the database did not answer; try again") from None

    monkeypatch.setattr(services.jobs, "find", find_once)
    assert [line for line in events(client, job.id) if line == "event: job"] == ["event: job"]


def test_a_report_is_answered_as_it_was_stored(client: httpx.Client, services: Services, job: Job) -> None:
    services.blobs.put_bytes(f"jobs/{job.id}/report.json", b'{"loss": 0.001}')
    services.blobs.put_bytes(f"jobs/{job.id}/report.html", b"<h1>digits</h1>")
    report, page = client.get(f"/jobs/{job.id}/report"), client.get(f"/jobs/{job.id}/report.html")
    assert (report.headers["content-type"], report.json()) == ("application/json", {"loss": 0.001})
    assert (page.headers["content-type"], page.text) == ("text/html; charset=utf-8", "<h1>digits</h1>")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_report_that_is_not_there_yet_says_what_to_do(client: httpx.Client, job: Job, rows: JobRegistry) -> None:
    refusal(client.get(f"/jobs/{job.id}/report"), 404, "queued", "wait", f"/jobs/{job.id}")
    rows.finish(job.id, "failed", error={"error": "x", "code": "stage_failed"})
    refusal(client.get(f"/jobs/{job.id}/report.html"), 404, "failed", "see its error")
