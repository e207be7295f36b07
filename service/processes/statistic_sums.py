"""The v2 protocol's statistics of several processes as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_Entry = dict[str, Any]
_NAMES = ("name", "version")


def same_model(entries: Iterable[_Entry], name: str, version: str) -> list[_Entry]:
    return [entry for entry in entries if (entry["name"], entry["version"]) == (name, version)]


def added(parts: Iterable[Iterable[_Entry]]) -> list[_Entry]:
    """One entry for each version of a model."""
    found: dict[tuple[str, str], _Entry] = {}
    for part in parts:
        for entry in part:
            key = (entry["name"], entry["version"])
            found[key] = _sum(found[key], entry) if key in found else entry
    return list(found.values())


def _sum(one: _Entry, other: _Entry) -> _Entry:
    return {key: _value(key, one[key], other[key]) for key in one}


def _value(key: str, one: Any, other: Any) -> Any:
    if key in (*_NAMES, "batch_size"):
        return one
    if key == "last_inference":
        return max(one, other)
    if key == "batch_stats":
        return _batches([*one, *other])
    if isinstance(one, dict):
        return _sum(one, other)
    return one + other


def _batches(sizes: list[_Entry]) -> list[_Entry]:
    found: dict[int, _Entry] = {}
    for size in sizes:
        rows = size["batch_size"]
        found[rows] = _sum(found[rows], size) if rows in found else size
    return [found[rows] for rows in sorted(found)]
