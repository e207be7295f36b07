"""How every command tells that a server is missing, refuses, or is not Octavo."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from service.cli.client import Client
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import Answer, ScriptedServer


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_a_missing_server_exits_4_and_says_how_to_start_one(octavo: Octavo) -> None:
    url = unused_url()
    outcome = octavo("jobs", "--url", url)
    assert outcome.code == 4
    assert url in outcome.err
    assert "octavo up" in outcome.err
    assert "OCTAVO_URL" in outcome.err
    assert outcome.out == ""


def test_with_json_an_error_is_one_document_on_stdout(octavo: Octavo) -> None:
    outcome = octavo("jobs", "--json", "--url", unused_url())
    assert outcome.code == 4
    assert outcome.document["code"] == "unreachable"
    assert "octavo up" in outcome.document["error"]


def test_the_servers_own_error_and_next_step_are_shown(octavo: Octavo, server: ScriptedServer) -> None:
    text = "rows is 0; send 1 to 100000"
    server.answer("POST", "/quantize", {"error": text, "code": "invalid_recipe"}, status=422)
    outcome = octavo("quantize", "digits", "--json")
    assert outcome.code == 1
    assert text in outcome.err
    assert outcome.document == {"error": text, "code": "invalid_recipe"}


def test_a_long_error_is_not_broken_into_lines(octavo: Octavo, server: ScriptedServer) -> None:
    text = "the model " + "very long " * 60 + "name"
    server.answer("GET", "/jobs", {"error": text, "code": "invalid_name"}, status=422)
    assert text in octavo("jobs").err


def test_markup_in_an_error_is_shown_as_it_is(octavo: Octavo, server: ScriptedServer) -> None:
    text = "node '[/head]' has shape [bold]; rename it"
    server.answer("GET", "/jobs", {"error": text, "code": "invalid_model"}, status=422)
    assert text in octavo("jobs").err


def test_what_does_not_exist_exits_5(octavo: Octavo, server: ScriptedServer) -> None:
    server.answer("GET", "/jobs/x", {"error": "there is no job 'x'", "code": "not_found"}, status=404)
    outcome = octavo("jobs", "x")
    assert outcome.code == 5
    assert "there is no job 'x'" in outcome.err


@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_that_is_not_octavos_is_told_apart(octavo: Octavo, server: ScriptedServer, status: int) -> None:
    server.answer("GET", "/jobs", b"<html>some proxy</html>", status=status)
    outcome = octavo("jobs")
    assert outcome.code == 1
    assert str(status) in outcome.err
    assert "proxy" in outcome.err


def test_a_connection_that_breaks_off_exits_4(octavo: Octavo, server: ScriptedServer) -> None:
    server.script["GET", "/jobs"].append(Answer(b'{"jobs": [', cut_bytes=100))
    outcome = octavo("jobs")
    assert outcome.code == 4
    assert "broke off" in outcome.err


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "ftp://host", "http://", "http://host:99999", "http://[::1", "http://a..b:1", "http://h/\x01",
     "http://exa mple:1", "http://a%20b:1", f"http://{'a' * 64}:1", "http://\xad:1"],
)  # fmt: skip
def test_a_wrong_server_address_is_wrong_usage(octavo: Octavo, url: str) -> None:
    outcome = octavo("jobs", "--url", url)
    assert outcome.code == 2
    assert "http://HOST:PORT" in outcome.err


@pytest.mark.parametrize(
    "url", ["http://[::1]:1", "http://[fe80::1%25lo]:1", "https://münchen.example:1/octavo", "http://a_b-c.example.:1"]
)
def test_an_address_of_any_usual_form_is_taken(url: str) -> None:
    with Client(url) as client:
        assert client.base_url == url


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_change_the_address_is_wrong_usage(octavo: Octavo, server: ScriptedServer, name: str) -> None:
    outcomes = [octavo("deploy", name), octavo("deploy", name, "v"), octavo("jobs", name), octavo("batching", name)]
    assert [outcome.code for outcome in outcomes] == [2] * 4
    assert all(f"{name!r} is no name" in outcome.err for outcome in outcomes)
    assert server.received == []


def test_a_name_with_slashes_stays_one_path_segment(octavo: Octavo, server: ScriptedServer) -> None:
    octavo("deploy", "../a/b")
    assert server.received[0].path == "/models/..%2Fa%2Fb/deployment"


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(octavo: Octavo, server: ScriptedServer) -> None:
    server.answer("GET", "/jobs", {"jobs": [], "next": None})
    assert octavo("jobs", HTTP_PROXY=unused_url(), http_proxy=unused_url()).code == 0


def test_importing_the_commands_loads_no_heavy_library() -> None:
    heavy = ("numpy", "httpx", "rich", "orjson", "fastapi", "sqlalchemy", "onnx", "onnxruntime", "cv2")
    code = f"import sys, service.cli; print([m for m in {heavy!r} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
