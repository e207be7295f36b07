"""What fusion lint says of one operator of an emitted graph, before any engine is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Predicted:
    """`int8`: whether the operator will run on an integer kernel; `rule` says why, or what stands in the way."""

    name: str
    operator: str
    int8: bool
    rule: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
