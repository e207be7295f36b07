"""Installs each peer once into a virtual environment of its own, with the ONNX Runtime that Octavo uses."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.errors import CannotMeasure


def install_peer(venvs: Path, name: str, packages: tuple[str, ...]) -> Path:
    """Returns the environment's bin folder; a half-made or outdated one is made anew. Raises CannotMeasure."""
    wanted = [f"{package}=={metadata.version(package)}" for package in ("onnxruntime", "numpy")] + list(packages)
    folder = venvs / name
    done = folder / "installed.json"
    if not done.is_file() or json.loads(done.read_text()) != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted])
        done.write_text(json.dumps(wanted))
    return folder / "bin"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
