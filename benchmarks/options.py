"""What a run was asked for, and the reference models it works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.quiet import Quiet

_MODELS = Path(__file__).parent.parent / "models"
DIGITS = _MODELS / "digits"
EFFICIENTNET = _MODELS / "efficientnet_lite0"
_SCRIPTS = (
    "python -m venv .venv-models && .venv-models/bin/pip install -r models/requirements.txt"
    " && .venv-models/bin/python models/efficientnet_lite0/{script}"
)


@dataclass(frozen=True)
class Options:
    """`seconds` is the length of one measurement; `venvs` keeps the peers' installations between runs.

    `quiet` is asked to wait before each measurement.
    """

    rounds: int
    seconds: float
    model: Path | None
    data: Path | None
    venvs: Path
    peers: tuple[str, ...]
    quiet: Quiet

    @property
    def digits(self) -> Path:
        return DIGITS / "digits.onnx"

    def find_efficientnet(self) -> Path:
        """The exported EfficientNet-Lite0. Raises CannotMeasure with the command that makes it."""
        path = self.model or EFFICIENTNET / "build" / "efficientnet_lite0.onnx"
        if not path.is_file():
            raise CannotMeasure(f"there is no {path}; make it with: {_SCRIPTS.format(script='export.py')}")
        return path

    def find_efficientnet_data(self) -> Path:
        """The folder of its calibration.npz and validation.npz. Raises CannotMeasure like find_efficientnet."""
        folder = self.data or EFFICIENTNET / "build"
        if not all((folder / name).is_file() for name in ("calibration.npz", "validation.npz")):
            command = _SCRIPTS.format(script="make_data.py")
            raise CannotMeasure(f"{folder} lacks calibration.npz or validation.npz; make them with: {command}")
        return folder
