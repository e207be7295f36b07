"""Runs several processes of Octavo as one: restarts what dies or hangs, and stops all on SIGTERM or SIGINT."""

from __future__ import annotations

import ctypes
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.watchdog import SignOfLife, Watch

_FIRST_WAIT_SECONDS = 0.5
_MAX_WAIT_SECONDS = 30.0
# A process that lived this long was well: its next death starts again with a short wait.
_HEALTHY_SECONDS = 60.0
_TICK_SECONDS = 0.2
# How long one may take to its first sign of life; it may wait for a database meanwhile.
_START_SECONDS = 600.0
# Where ticks lie so far apart this process stood still itself, perhaps with the others, and heard nothing.
_PAUSED_SECONDS = 5.0
# For a hanging process to say where it hangs.
_LAST_WORDS_SECONDS = 5.0
# What a process exits with when its settings keep it from starting: another start would end alike.
_HOPELESS_EXIT_CODE = 2
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


@dataclass
class _Child:
    """One supervised process. `wait_seconds` is the pause before its next start; it doubles with each quick death.
    `heard_at` is when it gave its last sign of life, or was started; `kill_at` is None unless it hangs.
    """

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    wait_seconds: float = field(default=_FIRST_WAIT_SECONDS)
    gives_signs: bool = False
    heard_at: float = 0.0
    kill_at: float | None = None


class Supervisor:
    """Keeps one process a name alive. Not thread-safe: `run` owns everything."""

    def __init__(
        self,
        commands: dict[str, Sequence[str]],
        stop_seconds: float,
        hang_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stop_seconds`: how long a stopping process may drain before it is killed. `hang_seconds`: how long one may
        give no sign of life (service.watchdog) before it is killed and started again; to its first, ten minutes.
        """
        self._children = [_Child(name, command) for name, command in commands.items()]
        self._stop_seconds = stop_seconds
        self._hang_seconds = hang_seconds
        self._watch = Watch(hang_seconds)
        # To systemd, where that watches this process.
        self._sign = SignOfLife()
        self._clock = clock
        self._ticked_at = clock()
        self._stopping = False
        self._hopeless = False

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Gives 0, or 1 where a process had to be killed.

        Gives 2, at once, where a process cannot start under its settings; it has said why.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stopping:
                self.tick()
                time.sleep(_TICK_SECONDS)
        finally:
            clean = self.stop()
        if self._hopeless:
            return _HOPELESS_EXIT_CODE
        return 0 if clean else 1

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def tick(self) -> None:
        """Looks after each process once."""
        self._sign.give()
        self._hear()
        for child in self._children:
            self._tend(child)

    def _hear(self) -> None:
        now, heard = self._clock(), self._watch.heard()
        paused, self._ticked_at = now - self._ticked_at > _PAUSED_SECONDS, now
        for child in self._children:
            process = child.process
            gave_sign = process is not None and process.pid in heard
            child.gives_signs |= gave_sign
            if gave_sign or paused:
                child.heard_at = now

    def _tend(self, child: _Child) -> None:
        now = self._clock()
        if child.process is None:
            if now >= child.start_at:
                child.process = subprocess.Popen(  # noqa: S603 (our own command line)
                    child.command,
                    stdin=subprocess.DEVNULL,
                    preexec_fn=_end_with_parent,
                    env=self._watch.environment,
                )
                child.started_at = child.heard_at = now
                child.gives_signs, child.kill_at = False, None
            return
        code = child.process.poll()
        if code is None:
            self._end_where_hung(child, child.process, now)
            return
        if code == _HOPELESS_EXIT_CODE:
            child.process, self._stopping, self._hopeless = None, True, True
            _log.error("process cannot start, so all stop", extra={"child": child.name, "exit_code": code})
            return
        lived = now - child.started_at
        child.wait_seconds = (
            _FIRST_WAIT_SECONDS if lived > _HEALTHY_SECONDS else min(2 * child.wait_seconds, _MAX_WAIT_SECONDS)
        )
        child.process, child.start_at = None, now + child.wait_seconds
        _log.error(
            "process died and is started again",
            extra={"child": child.name, "exit_code": code, "wait_seconds": child.wait_seconds},
        )

    def _end_where_hung(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        if child.kill_at is not None:
            if now >= child.kill_at:
                process.kill()
            return
        silent = now - child.heard_at
        if self._watch.can_hear and silent > (self._hang_seconds if child.gives_signs else _START_SECONDS):
            _log.error("process hangs and is killed", extra={"child": child.name, "silent_seconds": silent})
            # Ours write where each of their threads stands, and die of it.
            process.send_signal(signal.SIGABRT)
            child.kill_at = now + _LAST_WORDS_SECONDS

    def stop(self) -> bool:
        """Ends every process. Whether each of them drained in time."""
        self._watch.close()
        alive = [child.process for child in self._children if child.process is not None]
        for process in alive:
            process.terminate()
        clean, deadline = True, self._clock() + self._stop_seconds
        for process in alive:
            try:
                process.wait(max(0.0, deadline - self._clock()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                clean = False
        return clean


def _end_with_parent() -> None:
    """A supervisor that is killed outright leaves no orphans behind to hold the port and the queue (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def octavo_command(*arguments: str) -> list[str]:
    """The command line that runs another part of this same installation."""
    return [sys.executable, "-m", "service", *arguments]
