"""What a model's outputs of class scores decide, and which of them counts where there are several.

With labels it is the one on which the reference is right most often, for labels name the classes of one output alone.
Without it is the one on which the engine agrees least: an engine is as good as its worst output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from service.quantization.measures.decisions import Decisions, Labels, check_labels
from service.quantization.measures.figures import Floats


class Rankings:
    """Verdicts on the rows of the outputs `names`, each of two or more class scores a row."""

    def __init__(self, names: Iterable[str]) -> None:
        self._decisions = {name: Decisions() for name in names}
        self._narrow: set[str] = set()
        self._labelled = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._decisions)

    def add(self, pairs: Mapping[str, tuple[Floats, Floats]], labels: Labels | None) -> None:
        """The reference's and the engine's rows of each output, FP64 [rows, classes]. An output that `pairs` lacks is
        no longer judged. Raises InvalidDataset where labels name a class that no output has.
        """
        self._decisions = {name: decisions for name, decisions in self._decisions.items() if name in pairs}
        if labels is not None and pairs:
            self._labelled = True
            check_labels(labels, max(ours.shape[1] for ours, _ in pairs.values()))
            highest = labels.max(initial=0)
            self._narrow |= {name for name, (ours, _) in pairs.items() if ours.shape[1] <= highest}
        for name, decisions in self._decisions.items():
            decisions.add(*pairs[name], None if name in self._narrow else labels)

    def to_json(self) -> dict[str, Any]:
        """`scores`, the output that counts, or None; `ranked`, those that are judged; and the verdicts on `scores`."""
        name = self._counting()
        if name is None:
            return {"scores": None, "ranked": [], "metrics": {}, "classes": [], "tails": {}}
        decisions = self._decisions[name]
        about = {"output": name, "rows": decisions.rows, "rows_left_out": decisions.left_out}
        return {
            "scores": name,
            "ranked": [name] if self._labelled else list(self._decisions),
            "metrics": {metric: about | told for metric, told in decisions.metrics().items()},
            "classes": decisions.classes(),
            "tails": decisions.tails(),
        }

    def _counting(self) -> str | None:
        if not self._labelled:
            return min(self._decisions, key=lambda name: self._decisions[name].agreement, default=None)
        return max((name for name in self._decisions if name not in self._narrow), key=self._right, default=None)

    def _right(self, name: str) -> tuple[float, float]:
        """Of outputs on which the reference is equally right, the one with the worse engine comes first."""
        reference, engine = self._decisions[name].right
        return reference, -engine
