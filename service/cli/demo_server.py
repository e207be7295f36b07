"""A real Octavo server for the demo: a free port, a state folder of its own, and no process left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType

from service.cli.client import Client
from service.cli.exit_codes import CommandFailed, ExitCode

READY_SECONDS = 60.0
# Longer than the supervisor gives its own processes.
STOP_SECONDS = 45.0
_POLL_SECONDS = 0.1
_TAIL_LINES = 30


class DemoServer:
    """Runs `command` (`octavo up`) while the block lasts, at most `time_limit_seconds`."""

    def __init__(self, command: Sequence[str], folder: Path, time_limit_seconds: float) -> None:
        self._command = command
        self._folder = folder
        self._log = folder / "server.log"
        self.time_limit_seconds = time_limit_seconds
        self._timer = Timer(time_limit_seconds, self._expire)
        self.expired = False
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        # The user's own OCTAVO_ settings may name a production database: the demo must not see them.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OCTAVO_")}
        state = {"OCTAVO_HOST": "127.0.0.1", "OCTAVO_PORT": str(port), "OCTAVO_DATA_DIR": str(folder / "data")}
        # The demo speaks HTTP, and the usual port of gRPC may be another server's.
        self._environment = inherited | state | {"OCTAVO_GRPC_PORT": ""}

    def __enter__(self) -> DemoServer:
        with self._log.open("wb") as log:
            # A session of its own: Ctrl+C reaches the demo alone, which then stops the server in order.
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, fixed arguments)
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        stopped = self._stop()
        if error is None and stopped != 0:
            raise CommandFailed(
                f"the server did not stop cleanly on SIGTERM (exit status {stopped}); see its log below",
                "server_not_stopped",
                ExitCode.FAILED,
            )

    def wait_until_ready(self, client: Client) -> None:
        """Returns once `/v2/health/ready` answers 200. Raises CommandFailed where the server ends or takes too long."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if self._process.poll() is not None:
                raise CommandFailed(
                    f"the server ended with status {self._process.returncode} before it was ready; see its log below",
                    "server_ended",
                    ExitCode.FAILED,
                )
            try:
                client.send("GET", "/v2/health/ready")
                return
            except CommandFailed as failure:
                if time.monotonic() > deadline:
                    raise CommandFailed(
                        f"the server was not ready within {READY_SECONDS:g} s: {failure}", "not_ready", ExitCode.FAILED
                    ) from failure
            time.sleep(_POLL_SECONDS)

    @property
    def pid(self) -> int:
        """The server's process id, which is its process group's too."""
        return self._process.pid

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        with suppress(OSError):
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
        return ""

    def _expire(self) -> None:
        self.expired = True
        self._process.terminate()

    def _stop(self) -> int | None:
        """Stops the server in order, then whatever is left of its process group; the exit status, None if killed."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
