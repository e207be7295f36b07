"""Following a job: event streams however they are cut, and polling wherever they end too soon."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli import watch
from service.cli.client import Client
from service.cli.exit_codes import CommandFailed, ExitCode
from service.cli.watch import event_data, job_changes
from tests.unit.cli.scripted_server import ScriptedServer

BuildJob = Callable[..., dict[str, Any]]


def never(_: float) -> None:
    pytest.fail("polled although the stream told the end")


def states(server: ScriptedServer, pause: Callable[[float], None] = never) -> list[str]:
    with Client(server.url) as client:
        return [job["state"] for job in job_changes(client, "j1", pause)]


def test_each_event_is_a_change_and_the_last_is_finished(server: ScriptedServer, job: BuildJob) -> None:
    server.answer("GET", "/jobs/j1", job("queued"))
    server.events("j1", job("running", stage="inspect"), job("running", stage="build"), job("succeeded"))
    assert states(server) == ["queued", "running", "running", "succeeded"]


def test_a_finished_job_needs_no_stream(server: ScriptedServer, job: BuildJob) -> None:
    server.answer("GET", "/jobs/j1", job("rejected"))
    assert states(server) == ["rejected"]
    assert len(server.received) == 1


def test_a_stream_that_breaks_off_is_followed_by_polling(server: ScriptedServer, job: BuildJob) -> None:
    for state in ("queued", "running", "running", "succeeded"):
        server.answer("GET", "/jobs/j1", job(state))
    server.events("j1", job("running", stage="inspect"), cut_bytes=100)
    pauses: list[float] = []
    assert states(server, pauses.append) == ["queued", "running", "running", "succeeded"]
    assert pauses == [watch.POLL_SECONDS] * 2


def test_a_server_without_event_streams_is_polled(server: ScriptedServer, job: BuildJob) -> None:
    for state in ("queued", "running", "cancelled"):
        server.answer("GET", "/jobs/j1", job(state))
    assert states(server, lambda _: None) == ["queued", "running", "cancelled"]


@pytest.mark.parametrize("data", [b"not json", b"[1]", b'{"other": 1}'])
def test_a_stream_of_something_else_is_followed_by_polling(server: ScriptedServer, job: BuildJob, data: bytes) -> None:
    server.answer("GET", "/jobs/j1", job("running"))
    server.answer("GET", "/jobs/j1", job("failed"))
    server.answer("GET", "/jobs/j1/events", b"data: " + data + b"\n\n")
    assert states(server, lambda _: None) == ["running", "failed"]


def test_a_server_that_stays_away_ends_the_watch(job: BuildJob) -> None:
    with ScriptedServer().running() as server:
        server.answer("GET", "/jobs/j1", job("running"))
        server.events("j1")
        client = Client(server.url)
        changes = job_changes(client, "j1", lambda _: None)
        assert next(changes)["state"] == "running"
    with client, pytest.raises(CommandFailed) as caught:
        list(changes)
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_a_server_that_comes_back_is_followed_on(
    server: ScriptedServer, job: BuildJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = CommandFailed("away", "unreachable", ExitCode.UNREACHABLE)
    answers: list[Any] = [job("running"), away, away, job("succeeded")]

    def fetch(_: Client, __: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, CommandFailed):
            raise answer
        return answer

    monkeypatch.setattr(watch, "fetch_job", fetch)
    assert states(server, lambda _: None) == ["running", "succeeded"]


def test_a_job_that_is_not_there_is_not_followed(server: ScriptedServer) -> None:
    with pytest.raises(CommandFailed) as caught:
        states(server)
    assert caught.value.exit_code is ExitCode.NOT_FOUND


@given(
    documents=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), min_size=1), max_size=5),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    ending=st.sampled_from([b"\n", b"\r\n"]),
)
def test_events_are_the_same_however_the_bytes_are_cut(
    documents: list[dict[str, str]], cuts: list[int], ending: bytes
) -> None:
    texts = [json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass") for document in documents]
    stream = b"".join(
        b": ping%b%bevent: job%bdata: %b%b%b" % (ending, ending, ending, t, ending, ending) for t in texts
    )
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert list(event_data(iter(chunks))) == texts


def test_an_event_line_without_end_is_given_up() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        list(event_data(b"x" * 1_000_000 for _ in range(10)))
