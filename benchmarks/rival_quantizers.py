"""Other quantizers on the same model and rows, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.errors import CannotMeasure
from benchmarks.peer_venv import install_peer
from benchmarks.reference import ROOT, clean_environment

NNCF = "nncf==3.4.0"


@dataclass(frozen=True)
class Given:
    """What every quantizer is given: a model, calibration rows of an .npz, how many of them, and threads."""

    model: Path
    rows: Path
    count: int
    threads: int


def quantize_static(given: Given, output: Path, *options: str) -> dict[str, Any]:
    """ONNX Runtime's quantizer, with options of benchmarks.quantize_static: seconds and peak_bytes of its process."""
    arguments = [str(given.model.absolute()), str(given.rows.absolute()), str(output)]
    arguments += ["--count", str(given.count), "--threads", str(given.threads), *options]
    started = time.monotonic()
    found = json.loads(_run([sys.executable, "-m", "benchmarks.quantize_static", *arguments]))
    return {"seconds": time.monotonic() - started, **found}


def calibrate_static(given: Given, method: str) -> dict[str, Any]:
    """ONNX Runtime's calibrator alone: seconds of it, and peak_bytes of its process."""
    arguments = [str(given.model.absolute()), str(given.rows.absolute()), method, str(given.count), str(given.threads)]
    found: dict[str, Any] = json.loads(_run([sys.executable, "-m", "benchmarks.static_calibrator", *arguments]))
    return found


def quantize_by_nncf(given: Given, output: Path, venvs: Path) -> None:
    """Writes OpenVINO's own format beside `output`. Installs NNCF and this process's OpenVINO in `venvs` first."""
    programs = install_peer(venvs, "nncf", (NNCF, f"openvino=={metadata.version('openvino')}"))
    arguments = [str(given.model.absolute()), str(given.rows.absolute()), str(given.count), str(output)]
    # Its telemetry is off where a build machine's variable says so.
    _run([str(programs / "python"), "-m", "benchmarks.nncf_quantize", *arguments], CI="true")


def _run(command: list[str], **settings: str) -> str:
    """The last line that the command printed."""
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(**settings), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotMeasure(f"{' '.join(command[1:4])} ended with {done.returncode}: {done.stderr[-1000:]}")
    return (done.stdout.splitlines() or [""])[-1]
