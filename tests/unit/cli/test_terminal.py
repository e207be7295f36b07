"""Progress belongs to terminals: shown on one, and never in what a script reads."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.cli.scripted_server import ScriptedServer

COMMAND = (sys.executable, "-c", "from service.cli import app; app()")


def run_on_a_terminal(*arguments: str, url: str) -> tuple[str, str]:
    """Stdout, and what a terminal on stderr saw."""
    near, far = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TTY_INTERACTIVE")}
    environment |= {"OCTAVO_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=far, env=environment) as process:
        os.close(far)
        seen = bytearray()
        while chunk := _read(near):
            seen += chunk
        out = process.communicate()[0]
    os.close(near)
    return out.decode(), seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says EIO once the other side has closed
        return b""


def test_on_a_terminal_an_upload_shows_its_bytes_and_json_stays_pure(server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(bytes(100_000))
    server.answer("POST", "/models", {"name": "net", "version": 1}, status=201)
    out, seen = run_on_a_terminal("upload", str(tmp_path / "net.onnx"), "--name", "net", "--json", url=server.url)
    assert out == '{"name":"net","version":1}\n'
    assert "sending net.onnx" in seen
    assert "100.0/100.0 kB" in seen


def test_on_a_terminal_a_job_shows_its_stages(server: ScriptedServer, job: Callable[..., dict[str, Any]]) -> None:
    server.answer("GET", "/jobs/j1", job("queued"))
    server.events("j1", job("running", stage="calibrate", progress=0.4, attempt=2), job("succeeded", progress=1.0))
    out, seen = run_on_a_terminal("jobs", "j1", "--watch", "--json", url=server.url)
    assert out.startswith('{"id":"j1"')
    assert "100%" in seen
