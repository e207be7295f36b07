"""What the supervisor promises, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

_CHILD = (
    "import os, pathlib, sys, threading; "
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); threading.Event().wait()"
)
_SUPERVISOR = """
import sys
from service.supervisor import Supervisor
child = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
sys.exit(Supervisor({"child": child}, stop_seconds=float(sys.argv[3])).run())
"""


@contextmanager
def _supervised(pid_file: Path, child: str = _CHILD, stop_seconds: float = 10) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _SUPERVISOR, child, str(pid_file), str(stop_seconds)]) as supervisor:
        try:
            yield supervisor
        finally:
            supervisor.kill()


def _pid(pid_file: Path) -> int:
    return int(wait_until(lambda: pid_file.exists() and pid_file.read_text()))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_a_dead_process_is_started_again(tmp_path: Path) -> None:
    with _supervised(tmp_path / "pid") as supervisor:
        first = _pid(tmp_path / "pid")
        (tmp_path / "pid").unlink()
        os.kill(first, signal.SIGKILL)
        second = _pid(tmp_path / "pid")
        assert second != first
        supervisor.terminate()
        assert supervisor.wait(10) == 0


def test_sigterm_stops_every_process_cleanly(tmp_path: Path) -> None:
    with _supervised(tmp_path / "pid") as supervisor:
        child = _pid(tmp_path / "pid")
        supervisor.terminate()
        assert supervisor.wait(10) == 0
        assert not _alive(child)


def test_a_process_that_ignores_sigterm_is_killed_and_told(tmp_path: Path) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _CHILD
    with _supervised(tmp_path / "pid", stubborn, stop_seconds=0.2) as supervisor:
        child = _pid(tmp_path / "pid")
        supervisor.terminate()
        assert supervisor.wait(10) == 1
        assert not _alive(child)


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    with _supervised(tmp_path / "pid") as supervisor:
        child = _pid(tmp_path / "pid")
        supervisor.kill()
        supervisor.wait(10)
        wait_until(lambda: not _alive(child))


def test_a_process_that_cannot_start_under_its_settings_stops_all(tmp_path: Path) -> None:
    hopeless = "import pathlib, sys; file = pathlib.Path(sys.argv[1]); file.open('a').write('x'); sys.exit(2)"
    with _supervised(tmp_path / "starts", hopeless) as supervisor:
        assert supervisor.wait(10) == 2
    assert (tmp_path / "starts").read_text() == "x"
