"""The demo's own parts: it tells what failed, with the server's log, and leaves no process behind."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.cli import demo, demo_server
from service.cli.client import Client
from service.cli.demo import DemoSteps, find_model, latency_lines, run_demo
from service.cli.demo_server import DemoServer
from service.cli.exit_codes import CommandFailed
from service.cli.session import Session, Terminal
from tests.unit.cli.conftest import Octavo
from tests.unit.cli.scripted_server import ScriptedServer

# A server that has a child of its own, prints both ids, and never gets ready.
STUBBORN = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
if {ignore}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pids.tmp", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename("pids.tmp", "pids")
time.sleep(600)
"""


LATENCY = 'octavo_request_duration_seconds_count{model="digits",variant="int8-onnxruntime"} 50.0'


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def terminal_with_text() -> tuple[Terminal, io.StringIO]:
    terminal, text = Terminal(), io.StringIO()
    terminal.err = terminal.out = Console(file=text, width=200)
    return terminal, text


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_that_ends_at_once_is_told_with_its_status_and_log(tmp_path: Path) -> None:
    terminal, text = terminal_with_text()
    server = DemoServer(python("print('cannot bind the port'); raise SystemExit(7)"), tmp_path, 60.0)
    with pytest.raises(CommandFailed, match="status 7"):
        run_demo(terminal, tmp_path, server)
    assert "cannot bind the port" in text.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "waited 30 s"
        time.sleep(0.01)


def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_server, "READY_SECONDS", 0.1)
    terminal, _ = terminal_with_text()
    with pytest.raises(CommandFailed, match=r"not ready within 0\.1 s"):
        run_demo(terminal, tmp_path, DemoServer(python("import time; time.sleep(600)"), tmp_path, 60.0))


@pytest.mark.parametrize("ignore", [False, True])
def test_no_process_of_the_server_outlives_the_demo_even_one_that_ignores_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore: bool
) -> None:
    monkeypatch.setattr(demo_server, "STOP_SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    command = python(STUBBORN.format(ignore=ignore))
    with pytest.raises(CommandFailed, match="did not stop cleanly"), DemoServer(command, tmp_path, 60.0):
        wait_for((tmp_path / "pids").exists)
    for pid in (tmp_path / "pids").read_text().split():
        wait_for(lambda: not is_running(int(pid)))  # noqa: B023 (called at once)


def test_a_demo_that_takes_too_long_is_stopped_and_says_so(tmp_path: Path) -> None:
    terminal, _ = terminal_with_text()
    with pytest.raises(CommandFailed, match=r"stopped after 0\.2 s"):
        run_demo(terminal, tmp_path, DemoServer(python("import time; time.sleep(600)"), tmp_path, 0.2))


def test_a_server_that_does_not_stop_cleanly_fails_the_demo(tmp_path: Path) -> None:
    with (
        pytest.raises(CommandFailed, match=f"exit status {-signal.SIGTERM}"),
        DemoServer(python("import time; time.sleep(600)"), tmp_path, 60.0),
    ):
        pass


def test_the_server_gets_its_own_state_and_none_of_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTAVO_DATABASE_URL", "postgresql://production/octavo")
    code = "import os; print(sorted(f'{k}={v}' for k, v in os.environ.items() if k.startswith('OCTAVO_')))"
    server = DemoServer(python(code), tmp_path, 60.0)
    with pytest.raises(CommandFailed, match="status 0"), server, Client(server.url) as client:
        server.wait_until_ready(client)
    logged = server.log_tail()
    assert "production" not in logged
    assert f"OCTAVO_DATA_DIR={tmp_path / 'data'}" in logged


def test_sigterm_stops_the_server_before_the_demo_ends(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from service.cli.demo import terminated_in_order
from service.cli.demo_server import DemoServer
command = (sys.executable, "-c", "import time; time.sleep(600)")
with terminated_in_order(), DemoServer(command, Path({str(tmp_path)!r}), 60.0) as server:
    print(server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run(python(code), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
    assert not is_running(int(ended.stdout))


def test_missing_reference_models_are_told_with_the_option_that_names_them(octavo: Octavo, tmp_path: Path) -> None:
    outcome = octavo("demo", "--models", tmp_path)
    assert outcome.code == 1
    assert str(tmp_path / "digits") in outcome.err
    assert "--models" in outcome.err


def test_the_repositorys_models_are_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model(None).name == demo.MODEL


def script_demo(server: ScriptedServer, job: dict[str, Any]) -> None:
    """Answers for every step; both builds end as `job`."""
    server.answer("POST", "/models", {"name": "digits", "version": 1, "size_bytes": 5}, status=201)
    server.answer("POST", "/datasets", {"name": "digits-validation", "rows": 9}, status=201)
    server.answer("POST", "/quantize", job, status=202)
    server.answer("GET", f"/jobs/{job['id']}", job)
    server.answer("GET", f"/jobs/{job['id']}/report", {"variant": "int8-onnxruntime"})
    deployment = {"version": 1, "stable": {"variant": "fp32-onnxruntime"}}
    server.answer("GET", "/models/digits/deployment", deployment)
    server.answer("PUT", "/models/digits/deployment", deployment)
    prediction = {"index": 7, "label": "seven", "score": 0.99}
    server.answer("POST", "/models/digits/predict", {"variant": "int8-onnxruntime", "predictions": [prediction]})
    server.answer("GET", "/metrics", LATENCY.encode())


def steps(server: ScriptedServer, job: dict[str, Any]) -> str:
    """Runs every step against the script; what was printed."""
    script_demo(server, job)
    terminal, text = terminal_with_text()
    with Client(server.url) as client:
        DemoSteps(Session(client, terminal), find_model(None)).run()
    return text.getvalue()


def test_the_demo_builds_both_precisions_in_the_budget_and_deploys_int8(
    server: ScriptedServer, job: Callable[..., dict[str, Any]]
) -> None:
    printed = steps(server, job("succeeded", result={"variant": "int8-onnxruntime"}))
    builds = [each.document for each in server.received if each.path == "/quantize"]
    assert [build["recipe"]["precision"] for build in builds] == ["int8", "fp16"]
    assert all(build["budget"] == {"metric": "top1", "max_loss": 0.01} for build in builds)
    deployed = server.only("PUT", "/models/digits/deployment").document
    assert deployed == {"version": 1, "stable": {"variant": "int8-onnxruntime"}}
    assert "seven" in printed
    assert LATENCY in printed


def test_a_build_outside_the_budget_ends_the_demo_with_its_reason(
    server: ScriptedServer, job: Callable[..., dict[str, Any]]
) -> None:
    certificate = {"verdict": "rejected", "reason": "top1 lost 0.2"}
    with pytest.raises(CommandFailed, match=r"int8 job ended rejected: top1 lost 0\.2"):
        steps(server, job("rejected", result={"certificate": certificate}))
    assert "/models/digits/deployment" not in [each.path for each in server.received]


def test_only_the_variants_own_latency_lines_are_shown() -> None:
    name, own, other = (
        "octavo_request_duration_seconds",
        'model="digits",variant="int8"',
        'model="digits",variant="fp32"',
    )
    kept = [f"{name}_count{{{own}}} 50.0", f"{name}_sum{{{own}}} 0.1"]
    others = [f"# TYPE {name} histogram", f"{name}_count{{{other}}} 1.0", f"{name}_bucket{{{own}}} 1.0"]
    assert latency_lines("\n".join(others + kept), "digits", "int8") == kept
