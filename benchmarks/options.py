"""What a run was asked for, and the reference models it works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import CannotMeasure
from benchmarks.quiet import Quiet

_MODELS = Path(__file__).parent.parent / "models"
DIGITS = _MODELS / "digits"
SWISH = _MODELS / "digits_swish" / "digits_swish.onnx"
EFFICIENTNET = _MODELS / "efficientnet_lite0"
MINILM = _MODELS / "minilm"
ARCHITECTURES = _MODELS / "architectures"
PUBLISHED = _MODELS / "published"
_SCRIPTS = (
    "python -m venv .venv-models && .venv-models/bin/pip install -r models/requirements.txt"
    " && .venv-models/bin/python {script}"
)


@dataclass(frozen=True)
class Options:
    """`seconds` is the length of one measurement; `venvs` keeps the peers' installations between runs.

    `quiet` is asked to wait before each measurement. `calibration_rows` and `validation_rows` are of the quantizers,
    `emulated_rows` those that a slow emulator is given. `tuned` is whether INT8 of known architectures is.
    """

    rounds: int
    seconds: float
    model: Path | None
    data: Path | None
    venvs: Path
    peers: tuple[str, ...]
    quiet: Quiet
    minilm: Path | None = None
    calibration_rows: int = 256
    validation_rows: int = 512
    emulated_rows: int = 64
    architectures: Path | None = None
    published: Path | None = None
    tuned: bool = True

    @property
    def digits(self) -> Path:
        return DIGITS / "digits.onnx"

    def find_efficientnet(self) -> Path:
        """The exported EfficientNet-Lite0. Raises CannotMeasure with the command that makes it."""
        path = self.model or EFFICIENTNET / "build" / "efficientnet_lite0.onnx"
        if not path.is_file():
            raise CannotMeasure(
                f"there is no {path}; make it with: {_SCRIPTS.format(script='models/efficientnet_lite0/export.py')}"
            )
        return path

    def find_efficientnet_data(self) -> Path:
        """The folder of its calibration.npz and validation.npz. Raises CannotMeasure like find_efficientnet."""
        folder = self.data or EFFICIENTNET / "build"
        if not all((folder / name).is_file() for name in ("calibration.npz", "validation.npz")):
            command = _SCRIPTS.format(script="models/efficientnet_lite0/make_data.py")
            raise CannotMeasure(f"{folder} lacks calibration.npz or validation.npz; make them with: {command}")
        return folder

    def find_minilm(self) -> Path:
        """The folder of minilm.onnx and its datasets. Raises CannotMeasure like find_efficientnet."""
        folder = self.minilm or MINILM / "build"
        if not all((folder / name).is_file() for name in ("minilm.onnx", "calibration.npz", "validation.npz")):
            command = _SCRIPTS.format(script="-m models.minilm.export")
            command += " && .venv-models/bin/python -m models.minilm.make_data"
            raise CannotMeasure(
                f"{folder} lacks minilm.onnx or its datasets; see models/minilm/README.md, then: {command}"
            )
        return folder

    def find_architectures(self) -> list[Path]:
        """Folders of model.onnx, calibration.npz and validation.npz. Raises CannotMeasure like find_efficientnet."""
        return _model_folders(self.architectures or ARCHITECTURES / "build", "models/architectures/README.md")

    def find_published(self) -> list[Path]:
        """Likewise, of published models."""
        return _model_folders(self.published or PUBLISHED / "build", "models/published/README.md")


def _model_folders(root: Path, how: str) -> list[Path]:
    folders = sorted(path.parent for path in root.glob("*/model.onnx"))
    if not folders:
        raise CannotMeasure(f"{root} holds no models; see {how}")
    return folders
