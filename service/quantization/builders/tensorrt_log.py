"""What TensorRT says while it parses and builds: reasons, memory and layers, which it tells to its logger alone."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_KEPT_WARNINGS = 20
_KEPT_ERRORS = 5
_KEPT_LAYERS = 2000
_LINE_CHARACTERS = 600
_MEMORY = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
    "persistent_bytes": re.compile(r"Total Device Persistent Memory: (\d+) bytes"),
}
# At full verbosity the builder lists the compiled layers, the types that they read and the nodes that they came from.
_LAYERS = "Layers:"
_LAYER = re.compile(
    r"^Name: (?P<name>.*), LayerType: (?P<kind>.*), Inputs: \[(?P<reads>.*)\], Constants: \[.*\], "
    r"Outputs: \[(?P<makes>.*)\], TacticName: .*, Metadata: (?P<origins>.*)$"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_KEPT_ORIGINS = 64
_GRAVE = ("ERROR", "INTERNAL_ERROR")


class BuildLog:
    """Digests what it `take`s as it comes: nothing grows with the model but the engine's layers, which are bounded."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._warnings: list[str] = []
        self._errors: list[str] = []
        self.layers: list[dict[str, Any]] = []
        self.memory: dict[str, int] = {}

    @property
    def reason(self) -> str:
        """The errors so far on one line."""
        return " | ".join(self._errors) or "it gave no reason"

    def to_json(self) -> dict[str, Any]:
        """Lines by severity, the first warnings, and the engine's layers: name, kind, types read and made, origins."""
        return {"lines": dict(self._counts), "warnings": list(self._warnings), "layers": list(self.layers)}

    def take(self, severity: str, text: str) -> None:
        self._counts[severity.lower()] += 1
        line = " ".join(text.split())[:_LINE_CHARACTERS]
        if severity in _GRAVE and len(self._errors) < _KEPT_ERRORS:
            self._errors.append(line)
        elif severity == "WARNING" and len(self._warnings) < _KEPT_WARNINGS and line not in self._warnings:
            self._warnings.append(line)
        elif text.startswith(_LAYERS):
            self._take_layers(text)
        else:
            self._take_memory(text)

    def _take_memory(self, text: str) -> None:
        for name, pattern in _MEMORY.items():
            if (found := pattern.search(text)) is not None:
                self.memory[name] = int(found[1])

    def _take_layers(self, text: str) -> None:
        for line in text.splitlines()[1:]:
            found = _LAYER.match(line)
            if found is not None and len(self.layers) < _KEPT_LAYERS:
                self.layers.append(
                    {
                        "name": found["name"],
                        "kind": found["kind"],
                        "reads": _TYPE.findall(found["reads"]),
                        "makes": _TYPE.findall(found["makes"]),
                        "origins": _ORIGIN.findall(found["origins"])[:_KEPT_ORIGINS],
                    }
                )
