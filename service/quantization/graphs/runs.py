"""Which chosen operators stand around each tensor of a graph, and which of them follow each other without a gap."""

from __future__ import annotations

from collections.abc import Mapping, Set

from service.quantization.graphs.graph import Graph

# More candidates than these are not looked at: longer runs go first.
_MOST_RUNS = 4096


def operators_around(graph: Graph, chosen: Set[str]) -> dict[str, frozenset[str]]:
    """For each tensor the nearest of the chosen operators before it and behind it, with none of them between."""
    before: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        made = frozenset((node.name,))
        if node.name not in chosen:
            made = frozenset().union(*(before.get(name, frozenset()) for name in node.input))
        before |= dict.fromkeys(filter(None, node.output), made)
    behind: dict[str, frozenset[str]] = {}
    for node in reversed(graph.nodes):
        read = frozenset((node.name,))
        if node.name not in chosen:
            read = frozenset().union(*(behind.get(name, frozenset()) for name in node.output))
        for name in filter(None, node.input):
            behind[name] = behind.get(name, frozenset()) | read
    nothing: frozenset[str] = frozenset()
    return {name: before.get(name, nothing) | behind.get(name, nothing) for name in before.keys() | behind.keys()}


def connected_runs(neighbours: Mapping[str, Set[str]], longest: int) -> list[frozenset[str]]:
    """Every operator alone, and every connected set of up to `longest`, shortest first and in a fixed order."""
    newest = {frozenset((name,)) for name in neighbours}
    runs = sorted(newest, key=sorted)
    for _ in range(longest - 1):
        newest = {run | {name} for run in newest for member in run for name in neighbours[member] if name not in run}
        if len(runs) + len(newest) > _MOST_RUNS:
            break
        runs += sorted(newest, key=sorted)
    return runs
