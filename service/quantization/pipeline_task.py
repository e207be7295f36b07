"""What the pipeline works on, as plain values: the worker makes one without importing what the stages need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.domain.recipe import Budget, Recipe


@dataclass(frozen=True, slots=True)
class PipelineTask:
    """One build. `folder` holds the stages' outputs; datasets are .npz with rows first; `threads` is intra-op."""

    folder: Path
    model: Path
    recipe: Recipe
    budget: Budget
    calibration: Path | None
    validation: Path | None
    threads: int

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "model": str(self.model),
            "recipe": self.recipe.to_json(),
            "budget": {"metric": self.budget.metric, "max_loss": self.budget.max_loss},
            "calibration": str(self.calibration) if self.calibration else None,
            "validation": str(self.validation) if self.validation else None,
            "threads": self.threads,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> PipelineTask:
        return PipelineTask(
            folder=Path(value["folder"]),
            model=Path(value["model"]),
            recipe=Recipe.from_json(value["recipe"]),
            budget=Budget(**value["budget"]),
            calibration=Path(value["calibration"]) if value["calibration"] else None,
            validation=Path(value["validation"]) if value["validation"] else None,
            threads=value["threads"],
        )
