"""Which requests are traced: the v2 protocol's trace settings, read from what clients send and shown to them.

Refuses another file, tensors in traces, and collectors; counts and rates are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidInput, Unsupported

_MAX_COUNT = 2**31 - 1
NAMES = ("trace_level", "trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode")

# What clients call the settings that they can change.
TOLD = {"timestamps": "trace_level", "rate": "trace_rate", "count": "trace_count"}


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Of every `rate` requests one is traced while `timestamps` is on, `count` of them in all (-1: without end)."""

    timestamps: bool = False
    rate: int = 1000
    count: int = -1

    def to_json(self, file: str) -> dict[str, Any]:
        """As the protocol shows them: every value a string but the levels."""
        return {
            "trace_level": ["TIMESTAMPS" if self.timestamps else "OFF"],
            "trace_rate": str(self.rate),
            "trace_count": str(self.count),
            "log_frequency": "0",
            "trace_file": file,
            "trace_mode": "triton",
        }


def read_changes(body: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The settings to change, by their names here; None gives one up. Raises InvalidInput or Unsupported."""
    changes: dict[str, Any] = {}
    for name, value in body.items():
        if name == "trace_level":
            changes["timestamps"] = None if value is None else _level(value)
        elif name == "trace_rate":
            changes["rate"] = None if value is None else _integer(name, value, 1)
        elif name == "trace_count":
            changes["count"] = None if value is None else _integer(name, value, -1)
        elif name in NAMES:
            _check_fixed(name, value, file)
        else:
            raise InvalidInput(f"trace setting {name[:80]!r} is unknown; send one of {', '.join(NAMES)}")
    return changes


def _level(value: Any) -> bool:
    levels = [value] if isinstance(value, str) else value
    if levels in (["OFF"], ["TIMESTAMPS"]):
        return bool(levels == ["TIMESTAMPS"])
    if isinstance(levels, list) and "TENSORS" in levels:
        raise Unsupported("trace level 'TENSORS' is not offered: tensors are not written; send ['TIMESTAMPS']")
    raise InvalidInput(f"'trace_level' is {value!r:.80}; send ['OFF'] or ['TIMESTAMPS']")


def _integer(name: str, value: Any, least: int) -> int:
    """A number, which clients of the protocol send as text."""
    text = str(value) if type(value) is int else value
    number = int(text) if isinstance(text, str) and text.removeprefix("-").isdecimal() and len(text) < 12 else None
    if number is None or not least <= number <= _MAX_COUNT:
        raise InvalidInput(f"{name!r} is {value!r:.80}; send an integer from {least} to {_MAX_COUNT}")
    return number


def _check_fixed(name: str, value: Any, file: str) -> None:
    if name == "trace_file" and value not in (None, file):
        raise Unsupported(f"trace file location can not be updated through network protocol; traces go to {file!r}")
    if name == "log_frequency" and value not in (None, 0, "0"):
        raise Unsupported(f"'log_frequency' is {value!r:.80}: traces go to one file, within a second; send '0'")
    if name == "trace_mode" and value not in (None, "triton"):
        raise Unsupported(f"'trace_mode' is {value!r:.80}, which is not offered; send 'triton'")
