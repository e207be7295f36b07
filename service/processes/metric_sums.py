"""Metrics of several processes as one: counters and histograms are added up, gauges as their meaning asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.metrics import ADDED_GAUGES

# A family as JSON: its name, documentation, type and samples; a sample is a list of name, labels and value.
Family = dict[str, Any]


def families_of(registry: Collector) -> list[Family]:
    """What the registry holds now."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "samples": [[sample.name, sample.labels, sample.value] for sample in metric.samples],
        }
        for metric in registry.collect()
    ]


def without_gauges(families: Iterable[Family]) -> list[Family]:
    """What stays true of a process that is gone: what it counted."""
    return [family for family in families if family["type"] != "gauge"]


def summed(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """One family of each name. Counts of the same parts in the same order never fall, to the last digit."""
    families: dict[str, Family] = {}
    values: dict[str, dict[tuple[Any, ...], list[Any]]] = {}
    for part in parts:
        for family in part:
            name = family["name"]
            families.setdefault(name, family)
            known = values.setdefault(name, {})
            for sample, labels, value in family["samples"]:
                key = (sample, *labels.items())
                if key in known:
                    known[key][2] = _rule(family, sample)((known[key][2], value))
                else:
                    known[key] = [sample, labels, value]
    return [family | {"samples": list(values[name].values())} for name, family in families.items()]


def _rule(family: Family, sample: str) -> Callable[[Iterable[float]], float]:
    if sample.endswith("_created"):
        return min
    return max if family["type"] == "gauge" and family["name"] not in ADDED_GAUGES else sum


class Summed(Collector):
    """Families as the text format's writer wants them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            metric = Metric(family["name"], family["documentation"], family["type"])
            for sample, labels, value in family["samples"]:
                metric.add_sample(sample, labels, value)
            yield metric
