"""What the supervisor promises, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from service.supervisor import Supervisor
from tests.waiting import wait_until

_CHILD = (
    "import os, pathlib, sys, threading; "
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); threading.Event().wait()"
)
_SUPERVISOR = """
import sys
from service.supervisor import Supervisor
child = [sys.executable, "-c", sys.argv[1], sys.argv[2]]
sys.exit(Supervisor({"child": child}, stop_seconds=float(sys.argv[3]), hang_seconds=1.0).run())
"""
_LIVING = (
    "import os, pathlib, sys, threading; from service.watchdog import SignOfLife; sign = SignOfLife(); sign.give(); "
    "pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); pause = threading.Event()\n"
    "while True: sign.give(); pause.wait(sign.pause_seconds)"
)


@contextmanager
def _supervised(
    pid_file: Path, child: str = _CHILD, stop_seconds: float = 10, log: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _SUPERVISOR, child, str(pid_file), str(stop_seconds)]
    with subprocess.Popen(command, stderr=log) as supervisor:
        try:
            yield supervisor
        finally:
            supervisor.kill()


def _pid(pid_file: Path) -> int:
    return int(wait_until(lambda: pid_file.exists() and pid_file.read_text()))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().split()[2]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return _state(pid) != "Z"


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


def test_a_process_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    with _supervised(tmp_path / "pid", _LIVING) as supervisor:
        first = _pid(tmp_path / "pid")
        (tmp_path / "pid").unlink()
        # It stands still, and cannot even die of a signal that it could handle.
        os.kill(first, signal.SIGSTOP)
        assert _pid(tmp_path / "pid") != first
        supervisor.terminate()
        assert supervisor.wait(10) == 0


def test_a_process_that_hangs_says_where(tmp_path: Path) -> None:
    child = (
        "import pathlib, sys, threading; from service.logs import set_up_logging; set_up_logging('INFO'); "
        "from service.watchdog import SignOfLife; SignOfLife().give(); pathlib.Path(sys.argv[1]).open('a').write('x')\n"
        "def where_it_hangs(): threading.Event().wait()\n"
        "where_it_hangs()"
    )
    with (tmp_path / "log").open("wb") as log, _supervised(tmp_path / "starts", child, log=log) as supervisor:
        wait_until(lambda: (tmp_path / "starts").exists() and (tmp_path / "starts").read_text() == "xx")
        supervisor.terminate()
        supervisor.wait(10)
    assert "in where_it_hangs" in (tmp_path / "log").read_text()


def test_a_process_that_hangs_before_its_first_sign_of_life_is_killed_after_ten_minutes(tmp_path: Path) -> None:
    now = [0.0]
    supervisor = Supervisor({"child": [sys.executable, "-c", _CHILD, str(tmp_path / "pid")]}, 10, 1.0, lambda: now[0])
    supervisor.tick()
    child = _pid(tmp_path / "pid")
    try:
        while now[0] < 600.0:
            now[0] += 5.0
            supervisor.tick()
        assert _alive(child)
        now[0] += 5.0
        supervisor.tick()
        wait_until(lambda: not _alive(child))
    finally:
        supervisor.stop()


def test_processes_that_stood_still_with_their_supervisor_are_not_killed(tmp_path: Path) -> None:
    now = [0.0]
    supervisor = Supervisor({"child": [sys.executable, "-c", _LIVING, str(tmp_path / "pid")]}, 10, 1.0, lambda: now[0])
    supervisor.tick()
    child = _pid(tmp_path / "pid")
    try:
        supervisor.tick()
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: _state(child) == "T")
        now[0] += 3600.0
        supervisor.tick()
        now[0] += 0.9
        supervisor.tick()
        assert _alive(child)
        now[0] += 0.2
        supervisor.tick()
        now[0] += 5.0
        supervisor.tick()
        wait_until(lambda: not _alive(child))
    finally:
        os.kill(child, signal.SIGKILL)
        supervisor.stop()
