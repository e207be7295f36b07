"""`octavo jobs` and `octavo report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli import watch
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import Answer, ScriptedServer

BuildJob = Callable[..., dict[str, Any]]


def test_jobs_are_listed_by_model_and_state(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("GET", "/jobs", {"jobs": [job("running", stage="build", progress=0.42)], "next": None})
    outcome = octavo("jobs", "--model", "digits", "--state", "running")
    assert outcome.code == 0
    assert "j1" in outcome.out
    assert "42.00 %" in outcome.out
    assert server.received[0].query == {"model": ["digits"], "state": ["running"]}


def test_pages_are_followed_up_to_the_limit(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("GET", "/jobs", {"jobs": [job("failed", id="a")], "next": "/jobs/page2"})
    server.answer("GET", "/jobs/page2", {"jobs": [job("failed", id="b"), job("failed", id="c")], "next": "/jobs/page3"})
    listed = octavo("jobs", "--limit", "2", "--json").document
    assert [each["id"] for each in listed["jobs"]] == ["a", "b"]


def test_one_job_is_shown_with_its_stages(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    stages = [{"name": "inspect", "state": "done", "seconds": 0.25}, {"name": "build", "state": "running"},
              {"name": "gate", "state": "pending", "seconds": None}]  # fmt: skip
    server.answer("GET", "/jobs/j1", job("running", stages=stages))
    shown = octavo("jobs", "j1").out
    assert "inspect 0.2 s · build running" in shown
    assert "gate" not in shown


def test_showing_a_failed_job_is_no_failure_but_watching_it_is(
    octavo: Octavo, server: ScriptedServer, job: BuildJob
) -> None:
    server.answer("GET", "/jobs/j1", job("failed", error={"error": "no memory", "code": "stage_memory_limit"}))
    assert octavo("jobs", "j1").code == 0
    assert octavo("jobs", "j1", "--watch").code == 1


def test_watching_follows_the_job_to_its_end(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("GET", "/jobs/j1", job("running"))
    server.events("j1", job("rejected"))
    outcome = octavo("jobs", "j1", "--watch", "--json")
    assert outcome.code == 3
    assert outcome.document["state"] == "rejected"


def test_an_interrupted_watch_exits_130_and_says_that_the_job_goes_on(
    octavo: Octavo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch, "fetch_job", interrupted)
    outcome = octavo("jobs", "j1", "--watch")
    assert outcome.code == 130
    assert "octavo jobs j1 --watch" in outcome.err


def test_cancelling_asks_the_server_and_shows_the_job(octavo: Octavo, server: ScriptedServer, job: BuildJob) -> None:
    server.answer("DELETE", "/jobs/j1", job("running", cancel_requested=True), status=202)
    server.answer("GET", "/jobs/j1", job("cancelled"))
    outcome = octavo("jobs", "j1", "--cancel", "--json")
    assert outcome.code == 0
    assert outcome.document["state"] == "cancelled"
    assert octavo("jobs", "j1", "--cancel", "--watch").code == 6


@pytest.mark.parametrize("options", [("--watch",), ("--cancel",), ("j1", "--model", "digits"), ("--limit", "0")])
def test_options_that_do_not_go_together_are_wrong_usage(
    octavo: Octavo, server: ScriptedServer, options: tuple[str, ...]
) -> None:
    assert octavo("jobs", *options).code == 2
    assert server.received == []


def test_the_report_is_printed_as_the_server_wrote_it(octavo: Octavo, server: ScriptedServer) -> None:
    server.answer("GET", "/jobs/j1/report", {"figures": [1.5, None]})
    assert octavo("report", "j1", "--json").document == {"figures": [1.5, None]}


def test_the_reports_page_is_saved_whole(octavo: Octavo, server: ScriptedServer, job: BuildJob, tmp_path: Path) -> None:
    server.answer("GET", "/jobs/j1", job("succeeded"))
    server.answer("GET", "/jobs/j1/report", {})
    server.answer("GET", "/jobs/j1/report.html", b"<html>plots</html>")
    assert octavo("report", "j1", "--html", tmp_path / "r.html").code == 0
    assert (tmp_path / "r.html").read_bytes() == b"<html>plots</html>"
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]


def test_a_page_that_breaks_off_leaves_the_older_one(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    server.answer("GET", "/jobs/j1/report", {})
    server.script["GET", "/jobs/j1/report.html"].append(Answer(b"<html>", cut_bytes=50))
    (tmp_path / "r.html").write_text("older")
    assert octavo("report", "j1", "--html", tmp_path / "r.html").code == 4
    assert (tmp_path / "r.html").read_text() == "older"
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]


def test_a_page_that_cannot_be_written_is_told(octavo: Octavo, server: ScriptedServer, tmp_path: Path) -> None:
    server.answer("GET", "/jobs/j1/report", {})
    server.answer("GET", "/jobs/j1/report.html", b"<html>")
    outcome = octavo("report", "j1", "--html", tmp_path / "missing" / "r.html")
    assert outcome.code == 1
    assert "cannot be written" in outcome.err
