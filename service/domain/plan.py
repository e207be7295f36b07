"""The quantization plan: tensor -> integer grid, operator -> precision with the reason. Runtimes' emitters read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TensorGrid:
    """How one tensor's real values map to integers: value = scale * (integer - zero_point).

    `datatype` is the protocol's name. Weights and biases may hold one scale for each index of `axis`; activations
    hold one scale and no axis.
    """

    tensor: str
    datatype: str
    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class OperatorPrecision:
    """What one operator is planned to run in, and by which rule. `name` is the node's, `operator` its type."""

    name: str
    operator: str
    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class WeightGrid:
    """The grids of one weighted operator's constants; the bias has none where the operator has no bias."""

    operator: str
    weight: TensorGrid
    bias: TensorGrid | None


@dataclass(frozen=True, slots=True)
class QuantizationPlan:
    """Grids of the activations, grids of each weighted operator's constants, and every operator's precision."""

    activations: tuple[TensorGrid, ...]
    weights: tuple[WeightGrid, ...]
    operators: tuple[OperatorPrecision, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> QuantizationPlan:
        return QuantizationPlan(
            activations=tuple(_grid(grid) for grid in value["activations"]),
            weights=tuple(
                WeightGrid(entry["operator"], _grid(entry["weight"]), _grid(entry["bias"]) if entry["bias"] else None)
                for entry in value["weights"]
            ),
            operators=tuple(OperatorPrecision(**operator) for operator in value["operators"]),
        )


def _grid(value: dict[str, Any]) -> TensorGrid:
    return TensorGrid(**(value | {"scales": tuple(value["scales"])}))
