"""Models, their versions, and how a picture becomes an input tensor."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from service.domain.tensor import TensorSpec
from service.errors import InvalidName

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def checked_name(name: str, kind: str) -> str:
    """The name itself, or InvalidName: names reach URLs, folders and metric labels, so only safe characters pass."""
    if NAME_PATTERN.fullmatch(name) is None or ".." in name:
        shown = name if len(name) <= 80 else f"{name[:80]}... ({len(name)} characters)"
        raise InvalidName(
            f"the {kind} name {shown!r} is not allowed; use 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit, without '..'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image becomes the model's input: resize to width x height pixels, then (pixel * scale - mean) / std."""

    task: str
    width: int
    height: int
    layout: str
    color: str
    resize: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Preprocessing:
        return Preprocessing(**(value | {"mean": tuple(value["mean"]), "std": tuple(value["std"])}))


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable upload of a model. `labels_key` is the blob of its labels, a label a line."""

    name: str
    version: int
    format: str
    sha256: str
    size_bytes: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    created_at: datetime
    preprocessing: Preprocessing | None = None
    labels_key: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Calibration or validation rows: an array per model input with rows on the first axis, perhaps labels."""

    name: str
    sha256: str
    size_bytes: int
    rows: int
    arrays: dict[str, TensorSpec]
    labels: bool
    blob_key: str
    warnings: tuple[str, ...]
    created_at: datetime
