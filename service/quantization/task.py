"""What one run of the pipeline works on: its folder, model, recipe, budget and data; plain enough for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.domain.recipe import Budget, Recipe
from service.quantization.atomic_files import read_json, write_json

Progress = Callable[[float], None]


@dataclass(frozen=True)
class PipelineTask:
    """`folder` holds what the stages write; `calibration` and `validation` are canonical `.npz` files or None.

    `left_out` tells of runtimes that must not be tried, and why.
    """

    folder: Path
    model: Path
    recipe: Recipe
    budget: Budget
    calibration: Path | None
    validation: Path | None
    threads: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "recipe": self.recipe.to_json(),
            "budget": self.budget.to_json(),
            "calibration": None if self.calibration is None else str(self.calibration),
            "validation": None if self.validation is None else str(self.validation),
            "threads": self.threads,
            "left_out": dict(self.left_out),
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> PipelineTask:
        return PipelineTask(
            folder=Path(value["folder"]),
            model=Path(value["model"]),
            recipe=Recipe.from_json(value["recipe"]),
            budget=Budget(**value["budget"]),
            calibration=None if value["calibration"] is None else Path(value["calibration"]),
            validation=None if value["validation"] is None else Path(value["validation"]),
            threads=value["threads"],
            left_out=value["left_out"],
        )

    def write(self, name: str, value: Any) -> str:
        """Writes JSON to `name` in the folder, whole or not at all, and returns the name."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
        return name

    def read(self, name: str) -> Any:
        return read_json(self.folder / name)
