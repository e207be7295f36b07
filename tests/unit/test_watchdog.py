"""Signs of life, in systemd's words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from service.watchdog import SignOfLife, Watch


@pytest.fixture(name="watch")
def _watch() -> Iterator[Watch]:
    with closing(Watch(8.0)) as watch:
        yield watch


def _lend(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
        if name in environment:
            monkeypatch.setenv(name, environment[name])


def test_a_child_is_heard_by_its_id_and_by_nothing_that_it_claims(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert watch.heard() == set()
    subprocess.run([sys.executable, "-c", "from service.watchdog import SignOfLife as S; S().give()"],
                   env=watch.environment, check=True)  # fmt: skip
    (child,) = watch.heard()
    assert child not in (0, os.getpid())
    _lend(monkeypatch, watch.environment)
    sign = SignOfLife()
    assert sign.pause_seconds == 2.0
    sign.give()
    sign.give()
    assert watch.heard() == {os.getpid()}
    assert watch.heard() == set()


def test_nobody_else_can_send_to_the_parent_and_nothing_stays_of_it() -> None:
    watch = Watch(8.0)
    path = Path(watch.environment["NOTIFY_SOCKET"])
    assert path.stat().st_mode & 0o777 == 0o600
    watch.close()
    assert not path.exists()


def test_children_do_not_answer_to_whoever_watches_their_parent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _lend(monkeypatch, {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"})
    # No socket can be made under so long a path.
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("x" * 120)))
    with closing(Watch(8.0)) as watch:
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & watch.environment.keys()
        assert watch.heard() == set()


def test_a_parent_that_is_behind_or_gone_is_no_trouble(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    _lend(monkeypatch, watch.environment)
    sign = SignOfLife()
    for _ in range(10_000):
        sign.give()
    assert watch.heard() == {os.getpid()}
    watch.close()
    sign.give()


def test_a_systemd_unit_hears_the_process_that_it_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}
        _lend(monkeypatch, told)
        SignOfLife().give()
        with pytest.raises(BlockingIOError):
            systemd.recv(64)
        _lend(monkeypatch, told | {"WATCHDOG_PID": str(os.getpid())})
        SignOfLife().give()
        assert systemd.recv(64) == b"WATCHDOG=1"


@pytest.mark.parametrize("told", [{}, {"WATCHDOG_USEC": "1000"}, {"NOTIFY_SOCKET": "@x"},
                                  {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}])  # fmt: skip
def test_without_a_watching_parent_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    _lend(monkeypatch, told)
    sign = SignOfLife()
    assert sign.pause_seconds is None
    sign.give()
