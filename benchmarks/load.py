"""The load generator: wrk posting one fixed body over a number of connections."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.payloads import Payload
from benchmarks.process import pinned

_SCRIPT = Path(__file__).parent / "post.lua"
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Load:
    """`connections` at once for `seconds`; each pauses `pause_ms` on average between an answer and its next request."""

    connections: int
    seconds: float
    pause_ms: float = 0.0
    cores: frozenset[int] | None = None


@dataclass(frozen=True)
class Observed:
    """What one run of the load saw. Latency is from sending a request to the end of its answer."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: int

    def checked(self, who: str) -> Observed:
        """Itself. Raises CannotMeasure when any request failed: a rate of failures is no figure."""
        if self.errors or not self.requests:
            raise CannotMeasure(f"{self.errors} of {self.requests} requests to {who} failed; see its log")
        return self


def require_wrk() -> None:
    """Raises CannotMeasure with the command that installs wrk."""
    if shutil.which("wrk") is None:
        raise CannotMeasure("wrk is not installed; install it with: apt-get install wrk")


def apply_load(url: str, payload: Payload, load: Load) -> Observed:
    """Blocks for the load's seconds. wrk runs one thread, pinned to the load's cores if it names any."""
    headers = "\n".join(f"{name}: {value}" for name, value in payload.headers.items())
    command = [
        "wrk",
        *("--threads", "1", "--connections", str(load.connections), "--duration", f"{max(1, round(load.seconds))}s"),
        *("--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT), url),
    ]
    environment = os.environ | {"BODY": str(payload.body), "HEADERS": headers, "PAUSE_MS": str(load.pause_ms)}
    done = subprocess.run(pinned(command, load.cores), env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise CannotMeasure(f"wrk ended with {done.returncode}: {done.stderr or done.stdout}")
    return Observed(**json.loads(lines[-1]))
