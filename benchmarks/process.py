"""Child processes on chosen cores, and what Linux counts of them in /proc: memory and processor time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_STOP_SECONDS = 40.0


@dataclass(frozen=True)
class Program:
    """A command with its variables, its log file, its folder, and the cores that it and its children may use."""

    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    folder: Path | None = None
    cores: frozenset[int] | None = None


@contextmanager
def running(program: Program) -> Iterator[subprocess.Popen[bytes]]:
    """The program in a session of its own; its whole group is stopped at the end, by SIGTERM and then by SIGKILL."""
    with program.log.open("ab") as log:
        process = subprocess.Popen(
            pinned(program.command, program.cores),
            env=dict(program.environment),
            cwd=program.folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def pinned(command: Sequence[str], cores: frozenset[int] | None) -> list[str]:
    """The command, bound to `cores` by taskset where cores are given."""
    if cores is None:
        return list(command)
    return ["taskset", "--cpu-list", ",".join(str(core) for core in sorted(cores)), *command]


def _stop(process: subprocess.Popen[bytes]) -> None:
    # To the leader first: a supervisor among the peers stops its own children, and complains when they go before it.
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def resident_bytes(pid: int) -> int:
    """Resident memory now (VmRSS), shared pages of libraries included."""
    return _status_bytes(pid, "VmRSS")


def anonymous_bytes(pid: int) -> int:
    """Resident memory that no file backs (RssAnon): what the process alone holds."""
    return _status_bytes(pid, "RssAnon")


def peak_bytes(pid: int) -> int:
    """The most resident memory so far (VmHWM)."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """The direct children of every thread of `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of `pid` and of all below it that live, user's and system's. Steps of a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(child) for child in children(pid))


def core_ticks(core: int) -> tuple[int, int]:
    """Busy and total clock ticks of one core since boot; time stolen by the hypervisor counts as busy."""
    return _ticks(f"cpu{core}")


def host_ticks() -> tuple[int, int]:
    """As core_ticks, of all cores together."""
    return _ticks("cpu")


def _ticks(name: str) -> tuple[int, int]:
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"{name} "))
    ticks = [int(value) for value in line.split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)
